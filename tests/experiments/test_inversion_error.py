"""The growth, the attained bounds and the exponents that the page tells, at a tiny size."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from experiments.scripts import load, run


def test_bounds_and_exponents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("inversion_error", monkeypatch)
    rows = run(script, tmp_path, "--counts", "2", "8")
    measured = [row for row in rows if row["part"] != "alpha"]
    assert len(measured) == 24
    for row in measured:
        assert row["w2_noise"] < row["w2_one_vector"] <= row["bound_by_block"] * (1 + 1e-7)
        assert row["bound_by_block"] <= row["bound_uniform"] * (1 + 1e-9)
        if row["bound_closed"] is not None:
            assert row["bound_uniform"] <= row["bound_closed"]
        if row["part"] == "dilations":
            assert row["w2_one_vector"] == pytest.approx(row["bound_by_block"], rel=1e-6)
            # a shift of the mean alone, by Σ e^{γKk} eps, in units of the spread e^{γKN}
            spread = math.exp(row["gamma"] * row["K"] * row["blocks"])
            assert row["kl_one_vector"] == pytest.approx((row["w2_one_vector"] / spread) ** 2 / 2, rel=1e-6)
    for row in rows[len(measured) :]:
        assert row["exponent_corollary"] == row["alpha"] - 2
        assert row["exponent_dilations"] == pytest.approx(row["exponent_corollary"], abs=0.1)
        assert row["alpha"] - 0.3 < row["exponent_jko"] < row["alpha"]


def test_noise_is_that_of_a_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """One dilation by 1/2: N(0, 4 I) against N(0, 4 (1 + e²/2) I)."""
    script = load("inversion_error", monkeypatch)
    found = script.generated(script.dilations(1.0, math.log(2), 1), 0.4, kind="noise")
    assert found.w2 == pytest.approx(2 * math.sqrt(2) * (math.sqrt(1.08) - 1), rel=1e-9)
    assert found.kl == pytest.approx(1 / 1.08 - 1 + math.log(1.08), rel=1e-9)

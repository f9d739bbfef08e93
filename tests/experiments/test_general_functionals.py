"""The rates that the page tells, at a tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.scripts import load, run


def test_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("general_functionals", monkeypatch)
    options = ["--gammas", "1", "--cells", "16", "--steps", "10", "--many-steps", "80"]
    rows = run(script, tmp_path, *options)
    assert {row["part"] for row in rows} == {"strong", "flat", "other"}
    for row in rows:
        if row["part"] == "strong":
            assert row["largest_factor"] <= row["sharper"] * (1 + 1e-6)
            if row["functional"] != "KL, kinked V":  # its curvature is 50 where the law is
                assert row["last_factor"] == pytest.approx(row["sharper"], rel=0.02)
        elif row["part"] == "flat":
            assert 0 < row["largest_ratio"] <= 1
            assert row["exponent"] < -1
            if row["functional"] in script.LIMITS:
                assert row["exponent"] == pytest.approx(row["exponent_of_flow"], rel=0.1)
        else:
            assert row["decreasing"]
            assert row["left"] < 0.2
            if row["functional"] != "reverse KL":
                assert row["last_factor"] == pytest.approx(row["factor_near_q"], rel=0.1)


def test_a_pure_potential_moves_every_knot_by_its_own_implicit_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """V = x²/2: W2 to the point mass at 0 falls by 1/(1 + gamma) exactly, G by its square."""
    script = load("general_functionals", monkeypatch)
    found = script.descend(script.STRONG["potential"], 0.5, 6, cells=12)
    for before, after in zip(found.w2, found.w2[1:], strict=False):
        assert after == pytest.approx(before / 1.5, rel=1e-9)
    for distance, excess in zip(found.w2, found.excess, strict=True):
        assert excess == pytest.approx(distance**2 / 2, rel=1e-9)

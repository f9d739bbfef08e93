"""The rates, floors and counts that the page tells, at a tiny size."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from experiments.scripts import load, run


def test_rates_floors_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("gaussian_convergence", monkeypatch)
    rows = run(script, tmp_path, "--gammas", "0.5", "1.9", "--lambdas", "1", "--steps", "20")
    assert len(rows) == 6
    for row in rows:
        g = row["gamma"] * row["lambda"]
        if row["part"] == "rate":
            assert row["w2_squared_mean_shift"] == pytest.approx((1 + g) ** -2, rel=1e-6)
            assert row["w2_squared_general"] == pytest.approx((1 + g) ** -2, rel=0.03)
            assert row["w2_squared_general"] < row["contraction"] < row["theorem"]
        elif row["part"] == "floor":
            assert row["w2_exponent"] == pytest.approx(1, abs=1e-3)
            assert row["kl_exponent"] == pytest.approx(2, abs=1e-3)
            assert row["w2_over_eps_by_lambda"] == pytest.approx(1, rel=1e-3)
            assert row["kl_over_eps_by_lambda_squared"] < row["sharper_kl"] < row["theorem_kl"]
        else:
            assert row["slope"] == pytest.approx(1 / math.log1p(g), rel=0.05)
            assert row["slope"] < row["slope_corollary"] / 3
            for measured, sharper, corollary in zip(
                row["blocks"], row["blocks_sharper"], row["blocks_corollary"], strict=True
            ):
                assert measured <= sharper <= corollary

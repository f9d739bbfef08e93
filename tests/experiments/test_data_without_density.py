"""Distances and guarantees that the page tells, at a tiny size."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rice

from experiments.scripts import load, run


def test_distances_and_guarantees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("data_without_density", monkeypatch)
    monkeypatch.setattr(script, "GRID", 4000)
    options = ["--deltas", "0.4", "0.1", "0.05", "--steps", "6", "--cells", "60"]
    rows = run(script, tmp_path, *options)
    for row in rows:
        delta = row["delta"]
        if row["part"] == "distance":
            assert row["w2"] <= row["bound"] * 1.001 <= delta
            # small noise costs its part across the data: all of it for atoms, half around a circle
            expected = math.sqrt((1 if row["data"] == "circle" else 2) / 3)
            if delta < 0.1:
                assert row["w2"] == pytest.approx(expected * delta, rel=0.02)
        else:
            assert all(kl <= bound for kl, bound in zip(row["kl"][1:], row["kl_bound"][1:], strict=True))
            assert row["kl_end"] < row["kl"][0] / 10
            assert row["w2_data_to_model"] <= row["w2_data_to_smoothed"] + row["w2_smoothed_to_model"] + 1e-6
    guarantees = [row for row in rows if row["part"] == "guarantee"]
    starts = [row["kl"][0] for row in guarantees]
    assert starts == sorted(starts)  # KL(rho_delta‖q) grows as delta falls, and its end does not
    assert max(row["kl"][1] for row in guarantees) < 0.3 * starts[-1]


def test_the_circle_by_rices_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """W2² = E|Y|² - 2 R E|Y| + R²."""
    script = load("data_without_density", monkeypatch)
    squared, m2, _ = script.of_circle(0.5)
    t = script.smoothing_time(m2, 2, 0.5)
    sigma, centre = math.sqrt(1 - math.exp(-2 * t)), math.exp(-t) * math.sqrt(m2)
    mean = rice(centre / sigma, scale=sigma).mean()
    assert squared == pytest.approx(centre**2 + 2 * sigma**2 - 2 * math.sqrt(m2) * mean + m2, rel=1e-3)


def test_one_atom_is_moved_by_all_of_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("data_without_density", monkeypatch)
    t = script.smoothing_time(4.0, 1, 0.3)
    squared = script.line_w2_squared(np.array([2.0]), np.array([1.0]), 0.3, 1, 4.0)
    assert squared == pytest.approx((1 - math.exp(-t)) ** 2 * 4 + 1 - math.exp(-2 * t), rel=1e-3)

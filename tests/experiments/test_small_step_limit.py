"""The exact step is first order in gamma, and a trained block is told apart from it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.special import ndtr

from experiments.scripts import load, run


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("small_step_limit", monkeypatch)


def test_exact_step_has_exponent_one(script: ModuleType) -> None:
    gammas = [2.0**-n for n in range(7, 11)]
    rows = script.on_the_line(gammas, 0, cells=2000, rows=0, updates=0, seeds=())
    assert script.exponent(rows, "exact_error", 4) == pytest.approx(1, abs=0.05)


def test_quantiles_invert_the_distribution_function(script: ModuleType) -> None:
    levels = np.array([1e-9, 0.2, 0.5, 0.9])
    x = script.quantiles(levels)
    back = 0.4 * ndtr((x + 1.0) / 0.45) + 0.6 * ndtr((x - 0.8) / 0.6)
    np.testing.assert_allclose(back, levels, rtol=1e-9)


def test_a_small_run_learns_and_splits_its_error(script: ModuleType, tmp_path: Path) -> None:
    sizes = ("--halvings", "1", "--rows", "1000", "--updates", "40", "--cells", "400", "--repeats", "1")
    rows = run(script, tmp_path, *sizes)
    line = [row for row in rows if row["law"] == "line"]
    trained = [row for row in line if "seed" in row]
    assert (len(line), len(trained)) == (4, 2)
    for row in trained:
        # an untrained block is as far from the exact step as the exact step is long
        assert row["learning_error"] < 0.5 * (1 + row["exact_error"])
        assert abs(row["exact_error"] - row["learning_error"]) < row["error"]
        assert row["error"] < row["exact_error"] + row["learning_error"]
    (plane,) = (row for row in rows if row["law"] == "plane")
    assert plane["blocks"] == 2
    assert 0 < plane["own_score_error"] < 1
    assert plane["displacement_score_from_own"] > 0

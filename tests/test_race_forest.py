"""The race's forest: its conditional densities by the formula, its kernels' shortcuts, its budget."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from race_modules import imported


@pytest.fixture(scope="module")
def race() -> Iterator[dict[str, ModuleType]]:
    with imported(("density", "timed_descent", "contenders")) as modules:
        yield {**modules, "forest": importlib.import_module("contenders.forest")}


def bent_rows(n: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, 3))
    rows[:, 1] += rows[:, 0] ** 2
    rows[:, 2] += 0.5 * rows[:, 0] * rows[:, 1]
    return rows / rows.std(axis=0)


def test_a_columns_kernels_are_the_leaf_weighted_sum(
    race: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    forest, rows, new = race["forest"], bent_rows(300), bent_rows(20, seed=1)
    monkeypatch.setattr(forest, "TREES", 3)
    monkeypatch.setattr(forest, "CHUNK_MEMBERS", 40)  # several chunks, with rows of more and of fewer members
    column = forest._grown(rows, 2, race["timed_descent"].Clock(10.0), 10.0, forest.Growing(3, 0.7, 0))
    expected = np.zeros((20, len(forest.WIDTHS)))
    for tree in column.trees:
        own, nodes = (tree.apply(part[:, :2].astype(np.float32)) for part in (rows, new))
        for place in range(20):
            members = rows[own == nodes[place], 2]
            for at, width in enumerate(forest.WIDTHS):
                expected[place, at] += stats.norm(members, width).pdf(new[place, 2]).mean() / len(
                    column.trees
                )
    assert len(column.trees) == 3
    np.testing.assert_allclose(column.kernels(new[:, :2], new[:, 2]), expected, rtol=1e-2, atol=1e-5)


def test_the_first_column_is_a_kernel_estimate(race: dict[str, ModuleType]) -> None:
    forest = race["forest"]
    values, new = np.sort(bent_rows(2000)[:, 0]), np.linspace(-3, 3, 40)
    found = forest.FirstColumn(values).kernels(np.empty((40, 0)), new)
    for place in (0, 10, 19):
        width = forest.WIDTHS[place]
        expected = stats.norm(values[None, :], width).pdf(new[:, None]).mean(axis=1)
        # wide kernels sit on some of the values, evenly spaced
        np.testing.assert_allclose(found[:, place], expected, atol=1e-9 if place == 0 else 0.03)


def test_the_weights_are_most_likely_and_leave_a_background(race: dict[str, ModuleType]) -> None:
    forest, rows = race["forest"], bent_rows(3000)
    column = forest.FirstColumn(np.sort(rows[:2000, 0]))
    weights = forest._weights(column, rows[2000:], 0)
    assert weights.widths.sum() + weights.background == pytest.approx(1.0)
    assert weights.background >= 1e-3
    kernels, values = column.kernels(rows[2000:, :0], rows[2000:, 0]), rows[2000:, 0]
    best = np.log(weights.density(kernels, values)).mean()
    even = forest.Weights(np.full(20, 0.999 / 20), 1e-3)
    assert best > np.log(even.density(kernels, values)).mean()
    alone = [forest.Weights(0.999 * np.eye(20)[place], 1e-3) for place in range(20)]
    assert best >= max(np.log(one.density(kernels, values)).mean() for one in alone) - 1e-3


@pytest.mark.slow
def test_a_leaf_is_as_large_as_noise_asks(race: dict[str, ModuleType]) -> None:
    forest, rng = race["forest"], np.random.default_rng(0)
    first = rng.uniform(-1.7, 1.7, size=(2000, 1))
    independent = rng.normal(size=(2000, 1))
    sharp = np.sin(20 * first) + 0.001 * independent
    for second, leaf in ((independent, 10), (sharp, 2)):
        rows = np.hstack([first, second])
        clock = race["timed_descent"].Clock(60.0)
        found = forest._best_leaf(rows[:1500], rows[1500:], clock, 60.0, forest.Growing(3, 0.7, 0))
        assert (found >= 5) == (leaf == 10)


def test_columns_for_which_there_is_no_time_are_independent(race: dict[str, ModuleType]) -> None:
    forest = race["forest"]
    density = forest.fit(bent_rows(500), budget=1e-9, seed=0)
    assert [type(column).__name__ for column, _ in density.columns] == ["FirstColumn"] * 3
    assert np.isfinite(density.log_prob(bent_rows(50, seed=1))).all()


@pytest.mark.slow
def test_many_rows_and_a_small_budget(race: dict[str, ModuleType]) -> None:
    """Fewer trees, then fewer rows, and never much more than the budget."""
    forest = race["forest"]
    rows = np.random.default_rng(0).normal(size=(20_000, 6))
    clock = race["timed_descent"].Clock(2.0)
    density = forest.fit(rows, budget=2.0, seed=0)
    assert clock.used() < 2.3
    grown = [column for column, _ in density.columns if isinstance(column, forest.LaterColumn)]
    assert max(len(column.trees) for column in grown) < 40
    assert max(column.values.shape[1] for column in grown) < 18_000

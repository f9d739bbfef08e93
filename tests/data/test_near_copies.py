"""Near copies are grouped; rows of laws with a density are not, whatever tails, scales and lattices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.datasets import load_breast_cancer, load_digits, load_iris

from jkoflow.data.distinct import group_rows
from jkoflow.data.near_copies import group_copies, near_copies_of

Draw = Callable[[np.random.Generator, int], np.ndarray]


def copied(n: int, times: int, dim: int, jitter: float, *, relative: bool = False) -> np.ndarray:
    """Each of n rows so many times, with jitter of its own."""
    rng = np.random.default_rng(n + times)
    base = np.repeat(rng.standard_t(2, size=(n, dim)), times, axis=0)
    noise = jitter * rng.normal(size=base.shape)
    return base * (1 + noise) if relative else base + noise


@pytest.mark.parametrize(
    ("n", "times", "dim", "jitter"),
    [(80, 8, 2, 1e-6), (200, 2, 2, 1e-6), (200, 30, 2, 1e-7), (300, 5, 20, 1e-4), (300, 5, 1, 1e-9)],
)
def test_each_row_is_grouped_with_its_copies(n: int, times: int, dim: int, jitter: float) -> None:
    for relative in (False, True):
        found = group_copies(copied(n, times, dim, jitter, relative=relative))
        assert (found.n_groups, found.near_groups, found.near_rows) == (n, n, n * times)
        group = found.group.reshape(n, times)
        assert len(set(group[:, 0])) == n
        assert_array_equal(group, group[:, :1].repeat(times, axis=1))


def test_few_copies_among_many_rows_are_found() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1000, 3))
    both = np.concatenate([rows, rows[:50] + 1e-6 * rng.normal(size=(50, 3))])
    found = group_copies(both)
    assert (found.n_groups, found.near_groups, found.near_rows) == (1000, 50, 100)
    assert_array_equal(found.group[:50], found.group[1000:])


def test_order_scale_and_type_of_the_numbers_change_nothing() -> None:
    rows = copied(80, 8, 2, 1e-6)
    order = np.random.default_rng(1).permutation(len(rows))
    found = group_copies(rows)
    for other in (rows * [1e-9, 1e9] + [3.0, 0.0], -rows):
        moved = group_copies(other)
        assert (moved.n_groups, moved.near_rows) == (found.n_groups, found.near_rows)
    shuffled = group_copies(rows[order])
    assert len(set(zip(found.group[order], shuffled.group, strict=True))) == found.n_groups


def test_copies_of_copies_are_one_group() -> None:
    """Exact copies of near copies go where those go."""
    rows = np.repeat(copied(80, 3, 2, 1e-6), 2, axis=0)
    found = group_copies(rows)
    assert (found.n_groups, found.near_rows) == (80, 480)


def _curve(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.cos(np.outer(rng.random(n), np.arange(1, 6)))


def _mixture_of_scales(rng: np.random.Generator, n: int) -> np.ndarray:
    return 10.0 ** -rng.integers(0, 10, (n, 1)) * rng.normal(size=(n, 2)) + rng.integers(0, 10, (n, 1))


def _zero_inflated(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.column_stack(
        [np.where(rng.random(n) < 0.7, 0.0, np.exp(rng.normal(size=n))), rng.normal(size=n)]
    )


ORDINARY: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(size=(n, 2)),
    "line": lambda rng, n: rng.normal(size=(n, 1)),
    "Cauchy": lambda rng, n: rng.standard_cauchy((n, 2)),
    "Pareto on a line": lambda rng, n: rng.pareto(1.2, size=(n, 1)),
    "lognormal": lambda rng, n: np.exp(5 * rng.normal(size=(n, 2))),
    "spike on a line": lambda rng, n: rng.gamma(0.05, size=(n, 1)),
    "spikes": lambda rng, n: rng.gamma(0.05, size=(n, 2)),
    "mixture of scales": _mixture_of_scales,
    "narrow and wide": lambda rng, n: np.where(
        rng.random((n, 1)) < 0.5, rng.normal(size=(n, 2)), 5 + 1e-6 * rng.normal(size=(n, 2))
    ),
    "25 clusters": lambda rng, n: rng.integers(0, 5, (n, 2)) + 0.02 * rng.normal(size=(n, 2)),
    "curve": _curve,
    "thin curve": lambda rng, n: _curve(rng, n) + 1e-5 * rng.normal(size=(n, 5)),
    "lattice": lambda rng, n: rng.integers(0, 30, (n, 2)).astype(float),
    "tenths": lambda rng, n: rng.normal(size=(n, 2)).round(1),
    "lattice and spike": lambda rng, n: np.column_stack(
        [rng.integers(0, 30, (n, 2)), rng.gamma(0.05, size=n)]
    ),
    "float32": lambda rng, n: rng.random((n, 1)).astype(np.float32).astype(float),
    "zero-inflated": _zero_inflated,
    "one wild row": lambda rng, n: np.concatenate([rng.normal(size=(n - 1, 2)), [[1e8, 0.0]]]),
    "walk": lambda rng, n: np.cumsum(rng.normal(size=(n, 2)), axis=0),
    "composition": lambda rng, n: rng.dirichlet([0.05, 0.05, 0.05], size=n),
    "one hot": lambda rng, n: np.column_stack([np.eye(10)[rng.integers(0, 10, n)], rng.normal(size=n)]),
    "64 columns": lambda rng, n: rng.normal(size=(min(n, 1000), 64)),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_rows_of_ordinary_laws_stay_as_they_are(name: str) -> None:
    """The numbers of the groups, and so the split, are those of exact copies alone."""
    for n in (60, 400, 4000):
        for seed in (0, 1):
            rows = ORDINARY[name](np.random.default_rng(seed), n)
            found = group_copies(rows)
            assert found.near_groups == 0, (n, seed)
            assert_array_equal(found.group, group_rows(rows))


@pytest.mark.parametrize("load", [load_digits, load_iris, load_breast_cancer])
def test_tables_of_measurements_stay_as_they_are(load: Callable[[], object]) -> None:
    assert group_copies(load().data).near_groups == 0


def test_large_tables_stay_as_they_are() -> None:
    assert group_copies(np.random.default_rng(0).normal(size=(200_000, 1))).near_groups == 0


@pytest.mark.parametrize("name", ["normal", "line", "Cauchy", "spikes", "lattice", "curve"])
def test_rows_near_those_of_a_fit_are_named_and_others_are_not(name: str) -> None:
    rng = np.random.default_rng(5)
    known, other = ORDINARY[name](rng, 1000), ORDINARY[name](rng, 200)
    assert not near_copies_of(known, other).any()
    if name != "lattice":
        scale = np.abs(known[:40]) + 1e-12
        close = known[:40] + 1e-9 * scale * rng.normal(size=known[:40].shape)
        found = near_copies_of(known, np.concatenate([other, close]))
        assert found[200:].mean() > 0.7
        assert found[:200].mean() < 0.02


def test_rows_near_one_of_many_copies_are_named() -> None:
    known = copied(80, 8, 2, 1e-6)
    assert near_copies_of(known, known[::7] + 1e-6).all()
    assert not near_copies_of(known, known[::7]).any(), "exact ones are counted elsewhere"
    assert near_copies_of(known[:2], known[:3]).shape == (3,)

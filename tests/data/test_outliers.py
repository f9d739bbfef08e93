"""Gross outliers: one wild row is one wherever it lies, and no row of an ordinary law is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jkoflow.data import Schema, read_table
from jkoflow.data.outliers import find_outliers

Rows = np.ndarray


def normal(seed: int, n: int = 1000) -> Rows:
    return np.random.default_rng(seed).normal(size=(n, 2))


ORDINARY: dict[str, Callable[[np.random.Generator], Rows]] = {
    "normal": lambda source: source.normal(size=(1000, 3)),
    "Student, 3 degrees of freedom": lambda source: source.standard_t(3, (1000, 3)),
    "Laplace": lambda source: source.laplace(size=(1000, 3)),
    "exponential": lambda source: source.exponential(size=(1000, 3)),
    "lognormal": lambda source: source.lognormal(sigma=0.9, size=(1000, 3)),
    "uniform": lambda source: source.random((1000, 3)),
    "a rare flag": lambda source: (source.random((1000, 1)) < 0.003) * 1.0,
    "many zeros": lambda source: np.where(
        source.random((1000, 1)) < 0.998, 0.0, source.lognormal(size=(1000, 1))
    ),
    "two clusters far apart": lambda source: (
        source.normal(size=(1000, 1)) + 1e6 * (source.random((1000, 1)) < 0.02)
    ),
    "a spike at zero": lambda source: source.gamma(0.05, size=(1000, 1)),
    "counts": lambda source: source.poisson(2.0, (1000, 2)) * 1.0,
}


@pytest.mark.parametrize("name", ORDINARY)
@pytest.mark.parametrize("seed", range(3))
def test_no_row_of_an_ordinary_law_is_one(name: str, seed: int) -> None:
    found = find_outliers(read_table(ORDINARY[name](np.random.default_rng(seed))))
    assert not found.rows.any()
    assert not found.heavy


@pytest.mark.parametrize("size", [1e3, -1e3, 1e6, 1e100])
@pytest.mark.parametrize("n", [30, 1000])
def test_one_wild_row_is_one(size: float, n: int) -> None:
    rows = normal(0, n)
    rows[7, 1] = size
    found = find_outliers(read_table(rows))
    assert_array_equal(np.flatnonzero(found.rows), [7])
    assert found.heavy
    assert found.columns == ("x1",)
    assert f"1 of {n} rows lies" in found.notes[0]


def test_a_handful_is_found_and_a_cluster_is_not() -> None:
    for count, expected in ((5, 5), (20, 0)):
        rows = normal(0)
        rows[:count] = 1e6 + rows[:count]
        assert find_outliers(read_table(rows)).rows.sum() == expected


def test_the_unit_of_a_column_does_not_matter() -> None:
    rows = np.random.default_rng(0).standard_cauchy((1500, 2))
    found, scaled = (find_outliers(read_table(unit * rows)) for unit in (1.0, 2.0**40))
    assert_array_equal(found.rows, scaled.rows)
    assert found.heavy


def test_heavy_tails_are_told_where_no_single_row_is_apart() -> None:
    seeds = range(20)
    tables = [np.random.default_rng(seed).standard_cauchy((1500, 2)) for seed in seeds]
    found = [find_outliers(read_table(table)) for table in tables]
    assert all(each.heavy for each in found)
    assert all(each.rows.sum() <= 7 for each in found)


def test_of_many_columns_of_heavy_tails_few_rows_are_taken() -> None:
    table = read_table(np.random.default_rng(0).standard_cauchy((1000, 400)))
    assert 0 < find_outliers(table).rows.sum() <= 5


def test_a_whole_weight_is_the_row_that_many_times() -> None:
    rows, weight = normal(1, 400), np.ones(400)
    rows[3] = 1e6
    for count, is_one in ((1, True), (50, False)):
        weight[3] = count
        repeated = np.repeat(rows, weight.astype(int), axis=0)
        assert find_outliers(read_table(rows), weight=weight).rows.any() == is_one
        assert find_outliers(read_table(repeated)).rows.any() == is_one


def test_a_wild_context_makes_a_wild_row() -> None:
    rows, given = normal(2), normal(3)
    given[5, 0] = 1e4
    found = find_outliers(read_table(rows), read_table(given))
    assert_array_equal(np.flatnonzero(found.rows), [5])


@pytest.mark.parametrize("wild", [1e5, 1e8, 1e12])
def test_the_step_of_a_column_is_that_of_its_bulk(wild: float) -> None:
    smooth = normal(0, 400)
    steps = np.column_stack([np.round(smooth[:, 0], 1), smooth[:, 1]])
    for rows, kind, step in ((smooth, "continuous", None), (steps, "grid", 0.1)):
        rows[-1, 0] = wild
        table = read_table(rows)
        column = Schema.fit(table, apart=find_outliers(table)).columns[0]
        assert column.kind == kind
        assert getattr(column, "step", None) == (None if step is None else pytest.approx(step))

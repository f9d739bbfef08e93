"""The measuring step of a column is found to float precision, whatever the unit and the float type."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jkoflow.data.dequantise import common_step, measure

RNG = np.random.default_rng(0)
UNITS = [1e-12, 1e-3, 1.0, 0.1, 1000.0, 1 / 3, 1e12]


@given(
    counts=st.lists(st.integers(-5000, 5000), min_size=12, max_size=60, unique=True),
    step=st.sampled_from([1.0, 0.1, 0.01, 2.5, 1 / 3, 1e-9, 7e11]),
    origin=st.sampled_from([0.0, 0.5, 17.0]),
    as_float32=st.booleans(),
)
def test_grid_is_recovered(counts: list[int], step: float, origin: float, as_float32: bool) -> None:
    distinct = np.unique(np.array(counts, dtype=np.float64))
    gaps = np.diff(distinct)
    common = float(np.gcd.reduce(gaps.astype(int)))
    assume(gaps.min() <= 10 * common)
    values = (distinct + origin) * step
    if as_float32:
        # float32 has 24 bits, of which the largest count takes 13
        values = np.unique(values.astype(np.float32).astype(np.float64))
    assert common_step(values) == pytest.approx(common * step, rel=1e-6 if as_float32 else 1e-12)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_continuous_columns_have_no_step(unit: float, dtype: type[np.floating]) -> None:
    for size in (12, 100, 20_000):
        for draw in (RNG.normal, RNG.standard_cauchy, RNG.exponential):
            values = (unit * draw(size=size)).astype(dtype).astype(np.float64)
            assert measure(values) is None


@pytest.mark.parametrize("unit", UNITS)
def test_a_multiple_is_judged_alike(unit: float) -> None:
    decimals = np.round(RNG.normal(size=500), 3)
    atom = np.where(RNG.random(3000) < 0.4, 0.0, RNG.normal(size=3000))
    rounded_twice = np.round(RNG.integers(0, 9, 800) - 4.66932, 4)
    for values in (decimals, atom, rounded_twice, RNG.integers(0, 1000, 300).astype(float)):
        here, there = measure(values), measure(unit * values)
        assert here is not None
        assert there is not None
        assert there.step == pytest.approx(unit * here.step, rel=1e-9)
        assert there.largest_share == here.largest_share


@pytest.mark.parametrize(
    ("values", "step"),
    [
        (np.arange(100) % 2, 1.0),
        (np.arange(100) % 7 * 10, 10.0),
        (np.arange(200) / 100, 0.01),
        (1.6e9 + 60.0 * np.arange(300), 60.0),
        (np.repeat([0.0, 1.0, np.sqrt(2)], 40), np.sqrt(2) - 1),
        (np.array([0.1 + 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]), 0.1),
    ],
    ids=["binary", "tens", "hundredths", "minutes far from zero", "three reals", "rounding in the values"],
)
def test_step_of_known_columns(values: np.ndarray, step: float) -> None:
    found = measure(np.asarray(values, dtype=np.float64))
    assert found is not None
    assert found.step == pytest.approx(step, rel=1e-9)


def test_integer_type_counts_even_where_it_is_sparse() -> None:
    values = np.array([0, 50_000, 100_001, 9_999_999, 3, 77, 10**7, 10**9, 5, 8], dtype=np.float64)
    found = measure(values, integer=True)
    assert found is not None
    assert found.step == 1.0
    assert measure(1000 * values, integer=True).step == 1000.0  # type: ignore[union-attr]


def test_a_common_step_far_below_the_gaps_says_nothing() -> None:
    # classes 1..9, centred and rounded to five figures: the common step is 1e-5, the measuring step 1
    values = np.round(np.array([-3.66927, -2.66928, -1.66931, -0.66929, 0.33072] * 100), 5)
    found = measure(values)
    assert found is not None
    assert found.step == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("jitter", [1e-2, 2e-3])
def test_values_near_a_grid_are_not_on_it(jitter: float) -> None:
    values = RNG.permutation(1000)[:300] + jitter * RNG.uniform(-0.5, 0.5, size=300)
    assert measure(values) is None


def test_one_repeated_value_on_a_continuous_column() -> None:
    values = RNG.normal(size=10_000)
    values[:101] = 0.0
    found = measure(values)
    assert found is not None
    assert found.largest_share == pytest.approx(0.0101)
    assert np.ptp(values) / 2**20 < found.step < 1e-4
    values[:2] = 1.0, 2.0  # 99 rows: within 1 %
    assert measure(values) is None


def test_few_distinct_reals_are_tied() -> None:
    distinct = RNG.normal(size=150)
    values = np.tile(distinct, 40)
    found = measure(values)
    assert found is not None
    assert found.step == pytest.approx(np.diff(np.sort(distinct)).min())


def test_a_small_continuous_table_is_not_tied() -> None:
    assert measure(RNG.normal(size=20)) is None  # each value holds 5 % of the rows


@pytest.mark.parametrize("distance", [1e6, 1e8, 1e12])
def test_clusters_far_apart_are_no_grid(distance: float) -> None:
    """What is rounding beside the distance of two clusters is all the width that each has."""
    values = RNG.normal(size=400)
    values[200:] += distance
    assert measure(values) is None
    values[:199], values[199] = RNG.normal(size=199), 0.0
    assert measure(np.append(values[:200], distance)) is None

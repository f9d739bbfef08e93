"""Every kind of column is a bijection with a known slope, and comes back from the disk as it was."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jkoflow.data.columns import (
    COLUMNS,
    Column,
    ColumnSample,
    ContinuousColumn,
    GridColumn,
    column_from_dict,
    find_column,
)

RNG = np.random.default_rng(0)
REALS = RNG.normal(3.0, 2.0, size=400)
COUNTS = RNG.integers(0, 9, size=400).astype(float)

EXAMPLES: dict[str, np.ndarray] = {"grid": COUNTS, "continuous": REALS}
"""Values of a column of each kind."""


def sample_of(values: np.ndarray, **changes: object) -> ColumnSample:
    return ColumnSample(**{"name": "x", "distinct": values, "seen": values, **changes})


def column_of(kind: str) -> Column:
    return find_column(sample_of(EXAMPLES[kind]), COLUMNS.values()).column


def test_every_kind_has_an_example() -> None:
    assert set(EXAMPLES) == set(COLUMNS)
    assert all(kind.kind == name for name, kind in COLUMNS.items())


@pytest.mark.parametrize("kind", COLUMNS)
def test_values_are_read_as_their_kind_and_come_back(kind: str) -> None:
    column = column_of(kind)
    assert column.kind == kind
    reals = column.to_reals(EXAMPLES[kind])
    np.testing.assert_allclose(column.from_reals(reals), EXAMPLES[kind], rtol=1e-12)


@pytest.mark.parametrize("kind", COLUMNS)
def test_slope_is_the_derivative(kind: str) -> None:
    column, values = column_of(kind), EXAMPLES[kind][:50]
    h = 1e-5 * column.scale
    slope = (column.to_reals(values + h) - column.to_reals(values - h)) / (2 * h)
    np.testing.assert_allclose(column.log_slope(column.to_reals(values)), np.log(slope), atol=1e-7)
    assert column.is_linear == np.allclose(slope, 1.0)


@pytest.mark.parametrize("kind", COLUMNS)
def test_rows_to_train_on_are_standardised(kind: str) -> None:
    column = column_of(kind)
    values = np.tile(EXAMPLES[kind], 200)
    noisy = column.add_noise(values, RNG.random(len(values)))
    z = (column.to_reals(noisy) - column.location) / column.scale
    assert z.mean() == pytest.approx(0.0, abs=0.01)
    assert z.std() == pytest.approx(1.0, abs=0.01)
    assert column.is_dequantised == bool((noisy != values).any())


@pytest.mark.parametrize("kind", COLUMNS)
def test_json_round_trip_is_exact(kind: str) -> None:
    column = column_of(kind)
    assert column_from_dict(json.loads(json.dumps(column.to_dict()))) == column


def test_weights_move_location_and_scale() -> None:
    weight = np.where(REALS > 3.0, 2.0, 1.0)
    weighted = ContinuousColumn.read(sample_of(REALS, weight=weight)).column
    copied = ContinuousColumn.read(sample_of(np.repeat(REALS, weight.astype(int)))).column
    assert weighted.location == pytest.approx(copied.location)
    assert weighted.scale == pytest.approx(copied.scale)


def test_kinds_are_asked_in_order() -> None:
    assert isinstance(find_column(sample_of(COUNTS), [GridColumn, ContinuousColumn]).column, GridColumn)
    assert isinstance(find_column(sample_of(COUNTS), [ContinuousColumn, GridColumn]).column, ContinuousColumn)
    with pytest.raises(ValueError, match=r"column x is of none of the kinds \['grid'\]"):
        find_column(sample_of(REALS), [GridColumn])

"""Rows that processes have among them are read as an array is, and a table of such rows as any table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jkoflow.data import Schema, Table, read_table
from jkoflow.data.distinct import group_rows
from jkoflow.data.near_copies import group_copies
from jkoflow.data.outliers import find_outliers
from jkoflow.data.shared_rows import SharedRows
from jkoflow.data.table import gathered
from jkoflow.data.trainable import column_ranges
from jkoflow.data.weights import counted_rows
from jkoflow.world import World
from oracles.worlds import run_together

rng = np.random.default_rng(2)
VALUES = np.round(rng.normal(size=(403, 3)) * [1, 30, 0.1], 2)
VALUES[7:20] = VALUES[100]
VALUES[3] = [1e6, 0, -0.0]
PLACES = np.array([402, 0, 17, 17])

READ: dict[str, Callable[[Any], Any]] = {
    "shape": lambda values: values.shape,
    "length": len,
    "a column": lambda values: values[:, 1],
    "rows of a column": lambda values: values[PLACES, 2],
    "a masked column": lambda values: values[VALUES[:, 0] > 0, 0],
    "rows": lambda values: values[PLACES],
    "masked rows": lambda values: values[VALUES[:, 0] > 0],
    "a slice": lambda values: values[100:300],
    "a slice in steps": lambda values: values[5:400:9],
    "no row": lambda values: values[5:5],
    "least": lambda values: values.min(axis=0),
    "largest": lambda values: values.max(axis=0),
    "gathered columns": lambda values: gathered(values, PLACES, [2, 0]),
    "groups of copies": group_rows,
    "groups of near copies": lambda values: group_copies(values).group,
    "ranges": column_ranges,
}


def shared(world: World, values: np.ndarray = VALUES) -> SharedRows:
    return SharedRows(values[world.part(len(values))], world)


@pytest.mark.parametrize("read", READ.values(), ids=READ)
@pytest.mark.parametrize("size", [2, 3])
def test_shared_rows_are_read_as_an_array_is(read: Callable[[Any], Any], size: int) -> None:
    expected = np.asarray(read(VALUES))
    for found in run_together(size, lambda world: np.asarray(read(shared(world)))):
        assert np.array_equal(found, expected)
        assert np.array_equal(np.signbit(found), np.signbit(expected))


def test_columns_and_rows_that_are_kept_stay_where_they_are() -> None:
    rows = np.array([0, 1, 200, 201, 402])

    def kept(world: World) -> tuple[int, np.ndarray]:
        part = shared(world).select([2, 0]).keep(rows)
        return len(part.own), part[:]

    sizes, values = zip(*run_together(2, kept), strict=True)
    assert sizes == (4, 1)
    assert all(np.array_equal(value, VALUES[rows][:, [2, 0]]) for value in values)


def table_of(world: World) -> Table:
    table = read_table(VALUES)
    return table if world.size == 1 else Table(shared(world), table.columns, table.integer)


def test_columns_outliers_and_weights_are_those_of_the_whole_table() -> None:
    weight = np.where(np.arange(403) % 5 == 0, 0.0, 1.5)

    def learned(world: World) -> tuple[dict[str, Any], list[int], np.ndarray]:
        table, _, counts = counted_rows(table_of(world), None, weight)
        far = find_outliers(table, None, counts)
        schema = Schema.fit(table, weight=counts, apart=far)
        return schema.to_dict(), np.flatnonzero(far.rows).tolist(), table.drop(["x1"]).values[:]

    schema, far, values = run_together(1, learned)[0]
    assert far
    for found in run_together(2, learned):
        assert found[:2] == (schema, far)
        assert np.array_equal(found[2], values)

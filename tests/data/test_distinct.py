"""Copies of rows: the numbers of numpy's own, which sorts whole rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from jkoflow.data.distinct import group_rows, repeated_rows


def tables() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "continuous": rng.normal(size=(500, 3)),
        "few values": rng.integers(-2, 3, size=(500, 4)).astype(float),
        "copies": rng.normal(size=(60, 3))[rng.integers(60, size=500)],
        "tied first column": np.column_stack([np.repeat([1.0, 0.0], 250), rng.normal(size=(500, 2))]),
        "told apart by the last column": np.column_stack([np.zeros((500, 3)), rng.integers(9, size=500)]),
        "one column": rng.integers(20, size=(500, 1)).astype(float),
        "all the same": np.ones((50, 2)),
        "one row": np.array([[3.0, 4.0]]),
        "zeros of both signs": rng.choice([-0.0, 0.0, 1.0, -1.0], size=(200, 3)),
        "column by column": np.asfortranarray(rng.integers(0, 3, size=(300, 5)).astype(float)),
    }


@pytest.mark.parametrize("name", tables())
def test_groups_are_those_of_whole_sorted_rows(name: str) -> None:
    values = tables()[name]
    _, group = np.unique(values, axis=0, return_inverse=True)
    assert_array_equal(group_rows(values), group.reshape(-1))


@pytest.mark.parametrize("name", tables())
def test_repeated_are_all_but_the_first_of_each_group(name: str) -> None:
    values = tables()[name]
    assert_array_equal(repeated_rows(values), pd.DataFrame(values).duplicated())


def test_zeros_of_both_signs_are_one_row() -> None:
    values = np.array([[0.0, 1.0], [-0.0, 1.0], [0.0, -1.0]])
    assert group_rows(values).tolist() == [1, 1, 0]
    assert repeated_rows(values).tolist() == [False, True, False]

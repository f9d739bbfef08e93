"""Which rows do what: every row once, copies together, by the seed alone; and what recognises a fit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.testing import assert_array_equal

from jkoflow.config import Settings
from jkoflow.data import read_table
from jkoflow.fitting import describe, described_weights, recognise_by, split_rows


def values(n: int = 120, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 2))


def settings(**options: Any) -> Settings:
    return Settings(**{"holdout_fraction": 0.1, **options})


def test_split_covers_every_row_once_and_follows_the_seed() -> None:
    table = read_table(values(200))
    split = split_rows(table, settings(validation_fraction=0.25))
    assert split.sizes() == {"train": 130, "validation": 50, "holdout": 20}
    assert sorted([*split.train, *split.validation, *split.holdout]) == list(range(200))
    again, other = split_rows(table, settings(validation_fraction=0.25)), split_rows(table, settings(seed=1))
    assert_array_equal(again.holdout, split.holdout)
    assert set(other.holdout) != set(split.holdout)


def test_copies_of_a_row_stay_on_one_side() -> None:
    table = read_table(np.repeat(values(40), 5, axis=0)[np.random.default_rng(0).permutation(200)])
    split = split_rows(table, settings())
    sides = [
        {tuple(row) for row in table.values[rows]} for rows in (split.train, split.validation, split.holdout)
    ]
    assert all(len(side) for side in sides)
    assert not sides[0] & sides[1]
    assert not (sides[0] | sides[1]) & sides[2]


def test_split_does_not_depend_on_what_is_trained() -> None:
    table = read_table(values())
    for options in ({"objective": "jko"}, {"max_blocks": 9}, {"dtype": "float64"}):
        assert_array_equal(split_rows(table, settings(**options)).train, split_rows(table, settings()).train)


def test_weights_are_recognised_by_their_hash() -> None:
    table, chosen = read_table(values()), settings()
    split, weight = split_rows(table, chosen), np.ones(120)
    told = [
        recognise_by(describe(table, None, chosen, split, described_weights(each, "w")))
        for each in (weight, weight, 2 * weight, None)
    ]
    assert told[0] == told[1] != told[2]
    assert "weights" not in told[3]

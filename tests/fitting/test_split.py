"""Which rows do what: every row once, copies together, by the seed alone; and what recognises a fit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.testing import assert_array_equal

from jkoflow.config import Settings
from jkoflow.data import read_table
from jkoflow.fitting import describe, described_weights, recognise_by, split_of_run, split_rows


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


def near_copies(n: int = 80, times: int = 8) -> np.ndarray:
    """Rows of N(0, I), each several times with a jitter of 1e-6."""
    base = np.random.default_rng(11).normal(size=(n, 2))
    return np.repeat(base, times, axis=0) + 1e-6 * np.random.default_rng(12).normal(size=(n * times, 2))


def test_near_copies_of_a_row_stay_on_one_side() -> None:
    split = split_rows(read_table(near_copies()), settings())
    sides = [set(rows // 8) for rows in split.parts().values()]
    assert [len(side) for side in sides] == [64, 8, 8]
    assert not sides[0] & sides[1]
    assert not (sides[0] | sides[1]) & sides[2]
    (note,) = split.notes()
    assert note.startswith("640 rows lie closer to others than chance allows: 80 groups of near copies")
    assert len(set(split.groups_of("holdout"))) == 8


def test_ordinary_rows_have_no_groups_and_no_note() -> None:
    split = split_rows(read_table(values(400)), settings())
    assert split.copies is None
    assert split.groups_of("train") is None
    assert split.notes() == ()
    assert "near_copies" not in describe(read_table(values(400)), None, settings(), split)["split"]


def test_a_run_on_record_keeps_its_rule() -> None:
    """A run of before near copies were looked for has the split that it had."""
    table, chosen = read_table(near_copies()), settings()
    split = split_rows(table, chosen)
    told = describe(table, None, chosen, split)
    assert told["split"]["near_copies"] == {"groups": 80, "rows": 640}
    assert_array_equal(split_of_run(table, chosen, told).train, split.train)
    del told["split"]["near_copies"]
    before = split_of_run(table, chosen, told)
    assert_array_equal(before.train, split_rows(table, chosen, near_copies=False).train)
    assert set(before.holdout // 8) & set(before.train // 8)

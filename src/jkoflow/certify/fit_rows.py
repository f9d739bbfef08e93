r"""Which of the rows that a certificate is made from the fit has seen, exactly or nearly.

    seen = #{i: hash(context_i, row_i) is one of the fit's} + #{i: row_i is a near copy of one of the fit's}

Rows are compared by 64 bits each: a million rows against a million find a false repeat with a chance of
10^12 / 2^64 = 5e-8. In columns on a grid rows recur by chance; how often is what the rows of the fit do among
themselves. Near copies are those of `jkoflow.data.near_copies`. Source: ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from jkoflow.config import Settings
from jkoflow.data import Table, Weights
from jkoflow.data.near_copies import near_copies_of
from jkoflow.fitting import Split
from jkoflow.storage.scratch import row_slices

__all__ = ["FitRows", "FittedTable", "SeenRows"]

Hashes = npt.NDArray[np.uint64]
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SeenRows:
    """How many of some rows a fit has seen.

    Arguments:
        exact: Those that occur among its rows.
        near: Those that lie closer to one of its rows than chance allows, without being equal to it.
        by_chance: Share of the fit's own rows that occur among the others of them.
    """

    exact: int
    near: int = 0
    by_chance: float = 0.0

    def share(self, rows: int) -> float:
        """Share of so many rows that were seen, beyond chance."""
        return (self.exact + self.near) / rows - self.by_chance if rows else 0.0


@dataclass(frozen=True)
class FitRows:
    """The rows that a fit looked at: trained on, or used for its choices.

    Arguments:
        table: The whole table of the fit.
        context: What its rows are conditioned on; None for nothing.
        rows: Numbers of the rows that were looked at.
        weight: How much each row of the table counts, shape `(n,)`; None where all count the same.
    """

    table: Table
    context: Table | None
    rows: npt.NDArray[np.int64]
    weight: Weights | None = None

    @classmethod
    def of(cls, table: Table, context: Table | None, split: Split, weight: Weights | None = None) -> FitRows:
        """Those of a split."""
        return cls(table, context, np.concatenate([split.train, split.validation]), weight)

    def sample(self, most: int, seed: int) -> Table:
        """At most so many of them, drawn without replacement, by their weights where they have some."""
        rng = np.random.default_rng(seed)
        rows = rng.permutation(self.rows)
        if self.weight is not None:
            weight = self.weight[rows]
            rows = rows[rng.random(len(rows)) * weight.max() < weight]
        return self.table.take(rows[:most])

    @cached_property
    def hashes(self) -> Hashes:
        """One number for each row that was looked at, sorted."""
        return np.sort(_hashes(self.table, self.context)[self.rows])

    def seen_of(self, table: Table, context: Table | None) -> SeenRows:
        """How many rows of another table, in the same columns, the fit has seen."""
        repeated = np.flatnonzero(self.hashes[1:] == self.hashes[:-1])
        by_chance = len(np.union1d(repeated, repeated + 1)) / len(self.hashes)
        exact = int(np.isin(_hashes(table, context), self.hashes).sum())
        given = None if self.context is None else self.context.take(self.rows)
        near = near_copies_of(_values(self.table.take(self.rows), given), _values(table, context))
        return SeenRows(exact, int(near.sum()), by_chance)


@dataclass(frozen=True)
class FittedTable:
    """What a model was fitted to, and which of its rows did what.

    Arguments:
        table: All rows.
        context: What they are conditioned on, or None.
        weight: How much each counts, shape `(n,)`, or None.
        settings: Options of the fit.
        split: Which rows did what.
    """

    table: Table
    context: Table | None
    weight: Weights | None
    settings: Settings
    split: Split

    @cached_property
    def looked_at(self) -> FitRows:
        """The rows that the fit looked at."""
        return FitRows.of(self.table, self.context, self.split, self.weight)

    def take(self, rows: npt.NDArray[np.int64]) -> tuple[Table, Table | None, Weights | None]:
        """Some of the rows, with their contexts and their weights."""
        context = None if self.context is None else self.context.take(rows)
        return self.table.take(rows), context, None if self.weight is None else self.weight[rows]


def _values(table: Table, context: Table | None) -> Reals:
    """The rows with their contexts before them."""
    if context is None:
        return np.asarray(table.values)
    return np.concatenate([_given(table, context), table.values], axis=1)


def _given(table: Table, context: Table) -> Reals:
    return np.broadcast_to(context.array, (len(table), context.dim))


def _hashes(table: Table, context: Table | None) -> Hashes:
    """One number for each row, its context included, shape `(n,)`."""
    given = None if context is None else _given(table, context)
    hashes = np.empty(len(table), dtype=np.uint64)
    for part in row_slices(len(table)):
        values = table.values[part]
        if given is not None:
            values = np.concatenate([given[part], values], axis=1)
        values = values + 0.0  # -0 becomes 0, which it equals
        hashes[part] = pd.util.hash_pandas_object(pd.DataFrame(values), index=False)
    return hashes

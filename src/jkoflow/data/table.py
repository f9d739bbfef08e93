"""A table as numbers: n rows of d named real columns, and parts of it.

    X = (x_ij),  i = 1..n rows,  j = 1..d columns,  float64

A part that is a slice of rows is a view of the whole; what is gathered from a large table is kept in a
temporary file (`jkoflow.storage.scratch`). `jkoflow.data.reading` reads a table and checks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from jkoflow.data.shared_rows import Rows, SharedRows
from jkoflow.errors import InputError
from jkoflow.storage import shown
from jkoflow.storage.scratch import empty_array, row_slices

__all__ = ["Table", "count_of", "gathered", "join_names", "read_only"]

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of finite numbers and where they came from.

    Arguments:
        values: Shape (n, d), float64, finite, read-only, in the user's units; an array, or rows that several
            processes have among them.
        columns: d distinct names; `x0`, `x1`, … where the source names none.
        integer: d flags, True for a column of an integer or boolean type.
        source: The path as it was given; None for rows from memory.
        sha256: Hexadecimal hash of the file, or of shape, names and numbers; None for a part of a table.
        is_frame: True where the column names are the source's own.
        notes: What the reader had to decide, one line each.
    """

    values: Rows
    columns: tuple[str, ...]
    integer: tuple[bool, ...]
    source: str | None = None
    sha256: str | None = None
    is_frame: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    @property
    def dim(self) -> int:
        """The number of columns, d."""
        return len(self.columns)

    @property
    def label(self) -> str:
        """What a message calls the table: its path, or "the table"."""
        return "the table" if self.source is None else shown(self.source)

    def select(self, columns: Sequence[str]) -> Table:
        """Return the named columns in the order asked for; `InputError` for a name that is not there."""
        unknown = [name for name in columns if name not in self.columns]
        if unknown:
            raise InputError(
                f"{self.label}: no column named {join_names(unknown)}; "
                f"the columns are {join_names(self.columns)}"
            )
        if not columns or len(set(columns)) < len(columns):
            raise InputError(f"expected distinct column names, got {', '.join(columns) or 'none'}")
        places = [self.columns.index(name) for name in columns]
        return replace(
            self,
            values=self._columns(places),
            columns=tuple(columns),
            integer=tuple(self.integer[place] for place in places),
            sha256=None,
        )

    def _columns(self, places: list[int]) -> Rows:
        if isinstance(self.values, SharedRows):
            return self.values.select(places)
        return read_only(gathered(self.values, slice(None), places))

    def drop(self, columns: Sequence[str]) -> Table:
        """Return all columns but the named ones; `InputError` for a name that is not there, or none left."""
        self.select(columns)
        kept = [name for name in self.columns if name not in columns]
        if not kept:
            raise InputError(f"{self.label}: no column is left beside {join_names(columns)}")
        return self.select(kept)

    @property
    def array(self) -> Reals:
        """The values of a table whose rows are all in this process."""
        assert not isinstance(self.values, SharedRows)
        return self.values

    @property
    def own(self) -> Table:
        """The rows of this process alone, where processes have the rows among them; else all."""
        if isinstance(self.values, SharedRows):
            return replace(self, values=self.values.own, sha256=None)
        return self

    def keep(self, rows: npt.NDArray[np.int64]) -> Table:
        """Return the rows of these numbers, which grow; of shared rows each process keeps its own."""
        if isinstance(self.values, SharedRows):
            return replace(self, values=self.values.keep(rows), sha256=None)
        return self.take(rows)

    def take(self, rows: npt.NDArray[np.integer[Any]] | npt.NDArray[np.bool_] | slice) -> Table:
        """Return the rows at these places, in that order."""
        return replace(self, values=read_only(gathered(self.values, rows)), sha256=None)


def join_names(names: Sequence[str], *, most: int = 6, longest: int = 80) -> str:
    """Return names for a message: the first `most`, each cut to `longest`, and the count of others."""
    short = [name if len(name) <= longest else f"{name[: longest - 1]}…" for name in names[:most]]
    listed = ", ".join(name if name.isprintable() else ascii(name) for name in short)
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"


def count_of(things: Sequence[object], noun: str) -> str:
    """Return how many things there are, with their noun, in the plural where it is due."""
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def gathered(
    values: npt.NDArray[Any] | SharedRows,
    rows: npt.NDArray[np.integer[Any]] | npt.NDArray[np.bool_] | slice,
    places: Sequence[int] | None = None,
    *,
    copy: bool = False,
) -> Reals:
    """Rows and columns of an array in float64: a slice of rows as a view unless a copy is asked for."""
    part: npt.NDArray[Any] | SharedRows
    if isinstance(rows, slice):
        part = values[rows]
        if places is None and not copy:
            return part
        count = len(part)
    else:
        rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        part, count = values, len(rows)
    gathered = empty_array((count, values.shape[1] if places is None else len(places)), np.float64)
    for chunk in row_slices(count):
        found = part[chunk if isinstance(rows, slice) else rows[chunk]]
        gathered[chunk] = found if places is None else found[:, places]
    return gathered


def read_only(values: Reals) -> Reals:
    """The same numbers, row by row in memory, that nobody can write to."""
    values = np.ascontiguousarray(values)
    values.flags.writeable = False
    return values

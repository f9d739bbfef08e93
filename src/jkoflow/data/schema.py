"""The schema of a table: the bijection of the user's columns with standardised reals, and its log-Jacobian.

    z_j = (f_j(y_j) - m_j) / s_j,   log|det dz/dx| = sum_j (log f_j'(x_j) - log s_j)   (nats)

where y_j is x_j with the noise of its kind of column, and f_j the kind's map; both are the identity for a
continuous column. m_j and s_j² are mean and variance of f_j(y_j) over the rows that a fit may see. All of it
is float64, before any cast.

Source: change of variables, log p_x(x) = log p_z(z) + log|det dz/dx|; the kinds, `jkoflow.data.columns`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from jkoflow.data.columns import (
    COLUMNS,
    Column,
    ColumnSample,
    ContinuousColumn,
    Finding,
    column_from_dict,
    find_column,
    require_keys,
)
from jkoflow.data.outliers import Outliers
from jkoflow.data.table import Table, join_names
from jkoflow.data.trainable import check_ranges, check_trainable
from jkoflow.errors import InputError
from jkoflow.storage import FORMAT, RESTORE, reading_entries, require_format

__all__ = ["Role", "Schema"]

Reals = npt.NDArray[np.float64]
Role = Literal["data", "context"]

_ROLES: tuple[Role, ...] = ("data", "context")


@dataclass(frozen=True)
class Schema:
    """What a fit knows of its table's columns; the same bijection is applied to every later table.

    Arguments:
        columns: One `Column` for each of the d columns, in the order of training.
        was_frame: True where the columns were named by the user, so that later tables are matched by name and
            decoded rows come back as a DataFrame.
        role: `"data"` for rows whose density is learned, `"context"` for rows it is conditioned on: those are
            never dequantised, and may be constant.
        notes: What was found and what was done about it, one line each, for the summary.
    """

    columns: tuple[Column, ...]
    was_frame: bool
    role: Role = "data"
    notes: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls,
        table: Table,
        *,
        role: Role = "data",
        rows: npt.NDArray[np.integer[Any]] | None = None,
        weight: Reals | None = None,
        kinds: Sequence[type[Column]] | None = None,
        apart: Outliers | None = None,
    ) -> Schema:
        """Learn the columns of a table; nothing random is used.

        Arguments:
            table: The whole table: its faults are looked at in all rows, its grids in all but those apart.
            role: See the class.
            rows: Row numbers that location and scale are taken from, those that a fit may see; all if None.
            weight: How much each of them counts there, shape `(len(rows),)`; None where all count the same.
            kinds: The kinds of column that are asked, in order, the last of which takes every column. If
                None, those of `COLUMNS`; in a context, the continuous one alone.
            apart: The gross outliers, which say nothing of how other rows were recorded; None for none.

        Raises:
            InputError: `role` is unknown, or the table cannot be trained on (`check_trainable`; a context
                table may have any rows, and constant columns, which get scale 1).
        """
        if role not in _ROLES:
            raise InputError(f"role: expected one of {list(_ROLES)}, got {role!r}")
        if role == "context":
            check_ranges(table)
            repeated = np.zeros(len(table), dtype=np.bool_)
            kinds = kinds or (ContinuousColumn,)
        else:
            repeated = check_trainable(table)
            kinds = kinds or tuple(COLUMNS.values())
        left_out = repeated if apart is None else repeated | apart.rows
        samples = _samples(table, left_out, rows, weight)
        found = [find_column(sample, kinds) for sample in samples]
        outlying = () if apart is None else apart.notes
        notes = table.notes + _duplicate_notes(repeated) + outlying + _notes(found)
        return cls(tuple(finding.column for finding in found), table.is_frame, role, notes)

    # ── what it is ──

    @property
    def dim(self) -> int:
        """The number of columns, d."""
        return len(self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names, in the order of training."""
        return tuple(column.name for column in self.columns)

    @property
    def location(self) -> Reals:
        """Means m, shape (d,); in data units where the map of the column is the identity."""
        return np.array([column.location for column in self.columns], dtype=np.float64)

    @property
    def scale(self) -> Reals:
        """Standard deviations s, shape (d,), in the same units."""
        return np.array([column.scale for column in self.columns], dtype=np.float64)

    @property
    def dequantised(self) -> tuple[str, ...]:
        """Names of the columns that get uniform noise."""
        return tuple(column.name for column in self.columns if column.is_dequantised)

    def log_jacobian(self, z: Tensor) -> Tensor:
        """log|det dz/dx| at standardised rows z, shape (n, d): shape (n,), nats, float64, on the CPU.

        Added to the log-density of z it gives that of x, in data units.
        """
        nats = np.full(len(z), -math.fsum(math.log(column.scale) for column in self.columns))
        for place, column in self._curved:
            reals = z[:, place].double().cpu().numpy() * column.scale + column.location
            nats = nats + column.log_slope(reals)
        return torch.from_numpy(nats)

    # ── rows in, rows out ──

    def check(self, table: Table) -> Table:
        """Return the table with its columns in the order of training.

        Columns are matched by name where both tables name theirs, by place otherwise.

        Raises:
            InputError: Columns are missing, or there are others.
        """
        if self.was_frame and table.is_frame:
            missing = [name for name in self.names if name not in table.columns]
            extra = [name for name in table.columns if name not in self.names]
            if missing or extra:
                differences = [f"missing {join_names(missing)}"] * bool(missing)
                differences += [f"not known {join_names(extra)}"] * bool(extra)
                raise InputError(
                    f"{table.label}: expected the columns of the {self._noun}, got others: "
                    f"{'; '.join(differences)}; pass those {self.dim} columns and no more"
                )
            return table if table.columns == self.names else table.select(self.names)
        if table.dim != self.dim:
            raise InputError(
                f"{table.label}: expected the {self.dim} columns of the {self._noun} "
                f"({join_names(self.names)}), got {table.dim}; pass the same columns"
            )
        return table

    def encode(self, table: Table, *, generator: torch.Generator | None = None) -> Reals:
        """Return the rows standardised, shape (n, d); with a generator, dequantised first.

        To train, pass a named stream (`runtime.seed_stream`), so that columns recorded on a grid have a
        density. To score, pass none: a recorded value is the midpoint of its cell and is evaluated there, so
        that scores are deterministic. `log_prob` is then that of the dequantised data, at the midpoint.

        Raises:
            InputError: The columns are not those of the fit.
        """
        values = self.check(table).array
        noisy = [place for place, column in enumerate(self.columns) if column.is_dequantised]
        if generator is None or not noisy:
            return self.standardise(values)
        uniform = torch.rand(len(values), len(noisy), generator=generator, dtype=torch.float64).numpy()
        values = values.copy()
        for number, place in enumerate(noisy):
            values[:, place] = self.columns[place].add_noise(values[:, place], uniform[:, number])
        return self.standardise(values)

    def standardise(self, values: npt.ArrayLike) -> Reals:
        """Return (f(x) - m) / s for rows in data units, shape (..., d), float64, without noise."""
        reals = self._rows(values)
        reals = reals.copy() if self._curved else reals
        for place, column in self._curved:
            reals[..., place] = column.to_reals(reals[..., place])
        return np.asarray((reals - self.location) / self.scale, dtype=np.float64)

    def decode(self, values: npt.ArrayLike) -> Reals:
        """Return the rows in data units of standardised rows, shape (..., d); not rounded to any grid."""
        rows = np.asarray(self._rows(values) * self.scale + self.location, dtype=np.float64)
        for place, column in self._curved:
            rows[..., place] = column.from_reals(rows[..., place])
        return rows

    def to_user(self, values: npt.ArrayLike) -> pd.DataFrame | Reals:
        """Return rows in data units, shape (n, d), as the user's kind: a DataFrame if the fit saw names."""
        rows = self._rows(values)
        return pd.DataFrame(rows, columns=pd.Index(list(self.names))) if self.was_frame else rows

    def _rows(self, values: npt.ArrayLike) -> Reals:
        rows = np.asarray(values, dtype=np.float64)
        if rows.ndim == 0 or rows.shape[-1] != self.dim:
            raise InputError(f"expected rows of {self.dim} columns, got an array of shape {rows.shape}")
        return rows

    @property
    def _curved(self) -> list[tuple[int, Column]]:
        """The columns whose map f is not the identity, each with its place."""
        return [(place, column) for place, column in enumerate(self.columns) if not column.is_linear]

    @property
    def _noun(self) -> str:
        return "fit" if self.role == "data" else "fit's context"

    # ── on the disk ──

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` takes, for JSON: a float is written so that it reads back bit for bit."""
        return {
            "format": FORMAT,
            "role": self.role,
            "was_frame": self.was_frame,
            "columns": [column.to_dict() for column in self.columns],
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(
        cls, record: Mapping[str, Any], *, path: str = "schema.json", remedy: str = RESTORE
    ) -> Schema:
        """Rebuild a schema from JSON.

        Arguments:
            record: What `to_dict` returned.
            path: The file it came from, for the message.
            remedy: What the message tells the user to do about a damaged file.

        Raises:
            RunFolderError: The record is of a later format, or is damaged.
        """
        require_format(record.get("format"), path, remedy=remedy)
        with reading_entries(path, remedy=remedy):
            return _schema_from(record)


# ── learning ──


def _samples(
    table: Table,
    left_out: npt.NDArray[np.bool_],
    rows: npt.NDArray[np.integer[Any]] | None,
    weight: Reals | None,
) -> Iterable[ColumnSample]:
    """One column at a time, so that no more than a column's numbers are in memory."""
    for j, name in enumerate(table.columns):
        seen = table.values[:, j] if rows is None else table.values[rows, j]
        distinct = table.values[~left_out, j]
        if not np.ptp(distinct):  # all that differs from it is apart
            distinct = np.unique(table.values[:, j])
        yield ColumnSample(name, distinct, seen, weight, table.integer[j])


def _duplicate_notes(repeated: npt.NDArray[np.bool_]) -> tuple[str, ...]:
    count = int(repeated.sum())
    return (f"{count} of {len(repeated)} rows repeat an earlier row; they are kept",) if count else ()


def _notes(found: Sequence[Finding]) -> tuple[str, ...]:
    """What the kinds say of their columns, one line for each sentence."""
    said: dict[str, list[str]] = {}
    for finding in found:
        for note in finding.notes:
            said.setdefault(note.sentence, []).append(note.column)
    return tuple(
        f"{sentence.format(count=len(columns), dim=len(found))}: {join_names(columns)}"
        for sentence, columns in said.items()
    )


# ── reading back ──


def _schema_from(record: Mapping[str, Any]) -> Schema:
    require_keys(record, {"format", "role", "was_frame", "columns", "notes"}, "schema")
    if record["role"] not in _ROLES:
        raise ValueError(f"role {record['role']!r}")
    if not isinstance(record["was_frame"], bool):
        raise ValueError("was_frame is not true or false")
    if not all(isinstance(record[key], list) for key in ("columns", "notes")):
        raise ValueError("columns or notes is not a list")
    columns = tuple(column_from_dict(entry) for entry in record["columns"])
    if not columns or len({column.name for column in columns}) < len(columns):
        raise ValueError("column names are not distinct, or there are none")
    return Schema(columns, record["was_frame"], record["role"], tuple(str(note) for note in record["notes"]))

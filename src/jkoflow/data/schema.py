"""The schema of a table: the bijection of the user's columns with standardised reals, and its log-Jacobian.

    z_j = (y_j - m_j) / s_j,   y_j = x_j + h_j (u_j - 1/2),   log|det dz/dx| = -sum_j log s_j   (nats)

with u_j uniform on [0, 1) where column j was recorded in steps of h_j and h_j = 0 where it is continuous. m_j
and s_j² are mean and variance of the training values under the law of y: s_j² = Var(x_j) + h_j²/12. All of it
is float64, before any cast.

Source: change of variables, log p_x(x) = log p_z(z) + log|det dz/dx|; the noise, `jkoflow.data.dequantise`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from jkoflow.data.dequantise import Measurement, measure
from jkoflow.data.table import Table, join_names
from jkoflow.data.trainable import check_ranges, check_trainable, column_ranges
from jkoflow.data.weights import mean_and_deviation
from jkoflow.errors import InputError
from jkoflow.storage import FORMAT, RESTORE, read_error, require_format

__all__ = ["Column", "Role", "Schema"]

Reals = npt.NDArray[np.float64]
Role = Literal["data", "context"]

_ROLES: tuple[Role, ...] = ("data", "context")


@dataclass(frozen=True)
class Column:
    """One column: its name, and what standardises it.

    Arguments:
        name: The user's name of it, or `x0`, `x1`, … where there was none.
        location: Mean m of the training values, data units.
        scale: Standard deviation s > 0 of the dequantised training values, data units.
        step: Measuring step h > 0 of a column that is dequantised, data units; None for a continuous one.
    """

    name: str
    location: float
    scale: float
    step: float | None = None


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
    ) -> Schema:
        """Learn the columns of a table; nothing random is used.

        Arguments:
            table: The whole table: its grids and faults are looked at in all rows.
            role: See the class.
            rows: Row numbers that location and scale are taken from, those that a fit may see; all if None.
            weight: How much each of them counts there, shape `(len(rows),)`; None where all count the same.

        Raises:
            InputError: `role` is unknown, or the table cannot be trained on (`check_trainable`; a context
                table may have any rows, and constant columns, which get scale 1).
        """
        if role not in _ROLES:
            raise InputError(f"role: expected one of {list(_ROLES)}, got {role!r}")
        if role == "context":
            check_ranges(table)
            columns = _standardising(table, rows, weight, [None] * table.dim)
            return cls(columns, table.is_frame, role, table.notes)
        repeated = check_trainable(table)
        measured = _measurements(table, repeated)
        columns = _standardising(table, rows, weight, measured)
        notes = table.notes + _duplicate_notes(repeated) + _step_notes(columns, measured)
        return cls(columns, table.is_frame, role, notes)

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
        """Means, shape (d,), data units."""
        return np.array([column.location for column in self.columns], dtype=np.float64)

    @property
    def scale(self) -> Reals:
        """Standard deviations, shape (d,), data units."""
        return np.array([column.scale for column in self.columns], dtype=np.float64)

    @property
    def dequantised(self) -> tuple[str, ...]:
        """Names of the columns that get uniform noise."""
        return tuple(column.name for column in self.columns if column.step is not None)

    @property
    def log_jacobian(self) -> float:
        """log|det dz/dx| = -sum log s, nats: added to the log-density of z it gives that of x, data units."""
        return -math.fsum(math.log(column.scale) for column in self.columns)

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
        values = self.check(table).values
        noisy = [place for place, column in enumerate(self.columns) if column.step is not None]
        if generator is None or not noisy:
            return self.standardise(values)
        steps = np.array([column.step for column in self.columns if column.step is not None])
        uniform = torch.rand(len(values), len(noisy), generator=generator, dtype=torch.float64).numpy()
        values = values.copy()
        values[:, noisy] += steps * (uniform - 0.5)
        return self.standardise(values)

    def standardise(self, values: npt.ArrayLike) -> Reals:
        """Return (x - m) / s for rows in data units, shape (..., d), float64; no noise, no check of names."""
        return np.asarray((self._rows(values) - self.location) / self.scale, dtype=np.float64)

    def decode(self, values: npt.ArrayLike) -> Reals:
        """Return m + s z in data units for standardised rows, shape (..., d); not rounded to any grid."""
        return np.asarray(self._rows(values) * self.scale + self.location, dtype=np.float64)

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
    def _noun(self) -> str:
        return "fit" if self.role == "data" else "fit's context"

    # ── on the disk ──

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` takes, for JSON: a float is written so that it reads back bit for bit."""
        return {
            "format": FORMAT,
            "role": self.role,
            "was_frame": self.was_frame,
            "columns": [asdict(column) for column in self.columns],
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
        try:
            return _schema_from(record)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise read_error(path, str(error), remedy=remedy) from None


# ── learning ──


def _measurements(table: Table, repeated: npt.NDArray[np.bool_]) -> list[Measurement | None]:
    # a row given twice would make every value in it look tied
    distinct = ~repeated
    return [measure(table.values[distinct, j], integer=table.integer[j]) for j in range(table.dim)]


def _standardising(
    table: Table,
    rows: npt.NDArray[np.integer[Any]] | None,
    weight: Reals | None,
    measured: Sequence[Measurement | None],
) -> tuple[Column, ...]:
    """One column at a time, so that no more than a column's numbers are in memory."""
    columns = []
    for j, (name, measurement) in enumerate(zip(table.columns, measured, strict=True)):
        values = table.values[:, j] if rows is None else table.values[rows, j]
        step = None if measurement is None else measurement.step
        location, scale = mean_and_deviation(values, weight, 0.0 if step is None else step)
        varies = column_ranges(values[:, None])[0] > 0.0
        columns.append(Column(name, location, scale if varies or step else 1.0, step))
    return tuple(columns)


def _duplicate_notes(repeated: npt.NDArray[np.bool_]) -> tuple[str, ...]:
    count = int(repeated.sum())
    return (f"{count} of {len(repeated)} rows repeat an earlier row; they are kept",) if count else ()


def _step_notes(
    columns: Sequence[Column],
    measured: Sequence[Measurement | None],
    *,
    repeated: float = 0.01,
    peak: float = 10.0,
) -> tuple[str, ...]:
    """Which columns were dequantised, and which of them hold one value far too often.

    Arguments:
        columns: All columns.
        measured: How each was recorded; None for a continuous one.
        repeated: The most frequent value is told of where it holds more than this share of the rows,
        peak: and where its density, times the column's standard deviation, is above this, a normal law having
            0.4.
    """
    found = [(column, m) for column, m in zip(columns, measured, strict=True) if m is not None]
    if not found:
        return ()
    listed = join_names([f"{column.name} (step {m.step:.4g})" for column, m in found])
    notes = [
        f"dequantised {len(found)} of {len(columns)} columns, which are integer, tied or on a grid; "
        f"log_prob is that of the dequantised data: {listed}"
    ]
    peaks = [
        f"{column.name} ({m.largest_share:.1%} of the rows within {m.step:.3g})"
        for column, m in found
        if m.largest_share > repeated and m.largest_share * column.scale / m.step > peak
    ]
    if peaks:
        notes.append(
            f"one value is repeated on a fine grid, log_prob is dominated by it: {join_names(peaks)}"
        )
    return tuple(notes)


# ── reading back ──


def _schema_from(record: Mapping[str, Any]) -> Schema:
    _require_keys(record, {"format", "role", "was_frame", "columns", "notes"}, "schema")
    if record["role"] not in _ROLES:
        raise ValueError(f"role {record['role']!r}")
    if not isinstance(record["was_frame"], bool):
        raise ValueError("was_frame is not true or false")
    if not all(isinstance(record[key], list) for key in ("columns", "notes")):
        raise ValueError("columns or notes is not a list")
    columns = tuple(_column_from(entry) for entry in record["columns"])
    if not columns or len({column.name for column in columns}) < len(columns):
        raise ValueError("column names are not distinct, or there are none")
    return Schema(columns, record["was_frame"], record["role"], tuple(str(note) for note in record["notes"]))


def _column_from(entry: object) -> Column:
    if not isinstance(entry, Mapping):
        raise ValueError("a column is not an object")
    _require_keys(entry, {field.name for field in fields(Column)}, "column")
    name, step = entry["name"], entry["step"]
    if not isinstance(name, str):
        raise ValueError("a column has no name")
    location, scale = (_finite(entry[key], f"{key} of {name}") for key in ("location", "scale"))
    step = None if step is None else _finite(step, f"step of {name}")
    if scale <= 0.0 or (step is not None and step <= 0.0):
        raise ValueError(f"column {name} has a scale or step that is not positive")
    return Column(name, location, scale, step)


def _finite(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{what} is not a finite number")
    return float(value)


def _require_keys(record: Mapping[str, Any], keys: set[str], what: str) -> None:
    if set(record) != keys:
        raise ValueError(f"{what} with keys {sorted(record)}, expected {sorted(keys)}")

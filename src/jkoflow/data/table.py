"""A table as numbers: n rows of d named real columns, checked once, at the door.

    X = (x_ij),  i = 1..n rows,  j = 1..d columns,  float64

Large tables stay on the disk: a `.npy` file of float64 is looked into where it lies, other large numbers are
kept in a temporary file (`jkoflow.storage.scratch`). A table is identified by a hash, of the file's bytes or,
for rows that came from memory, of their shape, names and numbers. Source: FIPS 180-4, SHA-256.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from jkoflow.data.distinct import repeated_rows
from jkoflow.data.files import hash_file, read_file
from jkoflow.errors import InputError
from jkoflow.storage import shown
from jkoflow.storage.scratch import empty_array, is_large, row_slices

__all__ = [
    "MIN_DISTINCT_ROWS",
    "Table",
    "TableSource",
    "check_ranges",
    "check_trainable",
    "column_ranges",
    "join_names",
    "read_table",
]

Reals = npt.NDArray[np.float64]
TableSource = str | os.PathLike[str] | pd.DataFrame | npt.ArrayLike
"""What `read_table` takes: the path of a file, a DataFrame, or anything that numpy makes a 2-D array of."""

MIN_DISTINCT_ROWS = 10
"""Fewer rows than this say nothing of a density."""

_NAMED = 6
_SMALLEST_RANGE, _LARGEST_RANGE = 1e-150, 1e150


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of finite numbers and where they came from.

    Arguments:
        values: Shape (n, d), float64, finite, read-only, in the user's units.
        columns: d distinct names; `x0`, `x1`, … where the source names none.
        integer: d flags, True for a column of an integer or boolean type.
        source: The path as it was given; None for rows from memory.
        sha256: Hexadecimal hash of the file, or of shape, names and numbers; None for a part of a table.
        is_frame: True where the column names are the source's own.
        notes: What the reader had to decide, one line each.
    """

    values: Reals
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
            values=_read_only(_gathered(self.values, slice(None), places)),
            columns=tuple(columns),
            integer=tuple(self.integer[place] for place in places),
            sha256=None,
        )

    def drop(self, columns: Sequence[str]) -> Table:
        """Return all columns but the named ones; `InputError` for a name that is not there, or none left."""
        self.select(columns)
        kept = [name for name in self.columns if name not in columns]
        if not kept:
            raise InputError(f"{self.label}: no column is left beside {join_names(columns)}")
        return self.select(kept)

    def take(self, rows: npt.NDArray[np.integer[Any]] | npt.NDArray[np.bool_] | slice) -> Table:
        """Return the rows at these places, in that order."""
        return replace(self, values=_read_only(_gathered(self.values, rows)), sha256=None)


def read_table(source: TableSource) -> Table:
    """Read and check a table of numbers.

    Arguments:
        source: A `.csv`, `.tsv`, `.parquet`, `.npy` or `.npz` file (of one array, or one named `x`, `X` or
            `data`), a DataFrame, or an array of shape (n, d) of booleans, integers or floats.

    Raises:
        InputError: The file cannot be read; or the table is not 2-D, has no row, no column, a column name
            twice, a column that is not numeric, or a value that is missing, NaN or infinite.
    """
    if not isinstance(source, str | os.PathLike):
        table = _from_memory(source, "the table", named=isinstance(source, pd.DataFrame))
        return replace(table, sha256=_hash_values(table))
    digest = hash_file(source)
    raw = read_file(source)
    table = _from_memory(raw.content, shown(source), named=raw.names_columns)
    return replace(table, source=os.fspath(source), sha256=digest, notes=raw.notes)


def check_trainable(table: Table) -> npt.NDArray[np.bool_]:
    """Refuse a table that no density can be fitted to.

    Returns:
        A mask, shape (n,), of the rows that repeat an earlier one exactly; they are accepted.

    Raises:
        InputError: One row, fewer than 10 distinct rows, a column that is constant to float precision, or
            one whose range is beyond what float64 can square.
    """
    if len(table) < 2:
        raise InputError(f"{table.label}: expected at least {MIN_DISTINCT_ROWS} distinct rows, got one row")
    ranges = column_ranges(table.values)
    constant = [name for name, width in zip(table.columns, ranges, strict=True) if width == 0.0]
    if constant:
        raise InputError(
            f"{table.label}: {_count(constant, 'constant column')}: {join_names(constant)}; "
            "a constant has no density, leave it out"
        )
    check_ranges(table)
    repeated = repeated_rows(table.values)
    distinct = int((~repeated).sum())
    if distinct < MIN_DISTINCT_ROWS:
        raise InputError(
            f"{table.label}: expected at least {MIN_DISTINCT_ROWS} distinct rows, got {distinct} "
            f"among {len(table)}; add rows"
        )
    return repeated


def check_ranges(table: Table) -> None:
    """Refuse, as an `InputError`, a column that is not constant and whose range float64 cannot square."""
    for name, width in zip(table.columns, column_ranges(table.values), strict=True):
        if width and not _SMALLEST_RANGE <= width <= _LARGEST_RANGE:
            raise InputError(
                f"{table.label}: column {name} has a range of {width:.3g}, expected "
                f"{_SMALLEST_RANGE:g} to {_LARGEST_RANGE:g}; change its unit"
            )


def column_ranges(values: Reals) -> Reals:
    """Return max - min of every column, shape (d,); 0 where it is within rounding of the largest value."""
    with np.errstate(over="ignore"):
        low, high = values.min(axis=0), values.max(axis=0)
        ranges = np.asarray(high - low, dtype=np.float64)
        rounding = 16.0 * np.finfo(np.float64).eps * np.maximum(high, -low)
    return np.where(ranges <= rounding, 0.0, ranges)


def join_names(names: Sequence[str]) -> str:
    """Return names for a one-line message: the first few, and how many more there are."""
    listed = ", ".join(name if name.isprintable() else ascii(name) for name in names[:_NAMED])
    return listed if len(names) <= _NAMED else f"{listed} and {len(names) - _NAMED} more"


# ── from memory ──


def _from_memory(content: object, label: str, *, named: bool) -> Table:
    if isinstance(content, pd.DataFrame):
        return _from_frame(content, label, is_frame=named)
    array = _as_array(content, label)
    if array.dtype.kind not in "biuf":
        # column by column, so that the message can name the ones at fault
        frame = pd.DataFrame(array, columns=pd.Index(_default_names(array.shape[1])))
        return _from_frame(frame.infer_objects(), label, is_frame=False)
    columns = _default_names(array.shape[1])
    integer = (array.dtype.kind in "biu",) * len(columns)
    return _checked(_as_reals(array), columns, integer, label, is_frame=False)


def _as_array(content: object, label: str) -> npt.NDArray[Any]:
    if isinstance(content, pd.Series):
        raise InputError(
            f"{label}: expected a 2-D table, got a Series; pass series.to_frame() for one column"
        )
    if hasattr(content, "toarray"):
        raise InputError(f"{label}: expected a dense table, got a sparse matrix; pass X.toarray()")
    if isinstance(content, np.ma.MaskedArray) and content.dtype.kind in "biuf":
        content = np.where(np.ma.getmaskarray(content), np.nan, content.data)
    try:
        array = np.asarray(content)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise InputError(f"{label}: expected rows of equal length ({str(error).splitlines()[0]})") from None
    if array.dtype.names is not None:
        raise InputError(f"{label}: expected a plain array, got a structured one; pass pandas.DataFrame(X)")
    if array.ndim == 1:
        raise InputError(
            f"{label}: expected a 2-D table, got 1-D of {len(array)} values; "
            "use X.reshape(-1, 1) for one column, X.reshape(1, -1) for one row"
        )
    if array.ndim != 2:
        got = type(content).__name__ if array.ndim == 0 else f"{array.ndim}-D of shape {array.shape}"
        raise InputError(f"{label}: expected a 2-D table (rows, columns), got {got}")
    return array


def _as_reals(array: npt.NDArray[Any]) -> Reals:
    """A copy in float64; large rows that lie in a file as they are wanted stay there."""
    wanted = array.dtype == np.float64 and array.flags.c_contiguous and not array.flags.writeable
    if wanted and is_large(array.nbytes) and _is_mapped(array):
        return array
    return _gathered(array, slice(None), copy=True)


def _is_mapped(array: npt.NDArray[Any]) -> bool:
    part: object = array
    while isinstance(part, np.ndarray) and not isinstance(part, np.memmap):
        part = part.base
    return isinstance(part, np.memmap)


def _from_frame(frame: pd.DataFrame, label: str, *, is_frame: bool) -> Table:
    columns = tuple(str(name) for name in frame.columns)
    _refuse_empty(frame.shape, label)
    twice = sorted(name for name, count in Counter(columns).items() if count > 1)
    if twice:
        raise InputError(f"{label}: {_count(twice, 'column name')} given twice: {join_names(twice)}; rename")
    series = [frame.iloc[:, place] for place in range(len(columns))]
    faults = [_fault_of(column) for column in series]
    _refuse_faults(columns, faults, label)
    values = empty_array((len(frame), len(columns)), np.float64)
    for place, column in enumerate(series):
        values[:, place] = column.to_numpy(dtype=np.float64, na_value=np.nan)
    integer = tuple(_counts(column) for column in series)
    return _checked(values, columns, integer, label, is_frame=is_frame)


def _counts(column: pd.Series[Any]) -> bool:
    return pd.api.types.is_integer_dtype(column.dtype) or pd.api.types.is_bool_dtype(column.dtype)


def _fault_of(column: pd.Series[Any]) -> str | None:
    """Why the type of a column is refused, in words with an example; None where it is numeric and real."""
    kinds = pd.api.types
    if kinds.is_complex_dtype(column.dtype):
        return "complex numbers"
    if kinds.is_numeric_dtype(column.dtype):
        return None
    present = column.dropna()
    if column.empty or present.empty:
        return "no value at all"
    example = f"first {str(present.iloc[0])[:20]!r}"
    if kinds.is_datetime64_any_dtype(column.dtype) or kinds.is_timedelta64_dtype(column.dtype):
        return f"dates or durations ({example})"
    if isinstance(column.dtype, pd.CategoricalDtype):
        return f"categories ({example})"
    if isinstance(present.iloc[0], str):
        return f"text ({_text_example(present)})"
    return f"Python objects ({example})"


def _text_example(present: pd.Series[Any]) -> str:
    """The first entry that is no number, since it is the one to mend."""
    numbers = pd.to_numeric(present.astype(str), errors="coerce")
    wrong = present[numbers.isna()]
    return "numbers in quotes" if wrong.empty else f"first {str(wrong.iloc[0])[:20]!r}"


def _refuse_faults(columns: Sequence[str], faults: Sequence[str | None], label: str) -> None:
    named = [f"{name} holds {fault}" for name, fault in zip(columns, faults, strict=True) if fault]
    if named:
        raise InputError(
            f"{label}: expected numeric columns, got {len(named)} of {len(columns)} that are not: "
            f"{join_names(named)}; leave them out or encode them as numbers"
        )


def _checked(
    values: Reals, columns: tuple[str, ...], integer: tuple[bool, ...], label: str, *, is_frame: bool
) -> Table:
    _refuse_empty(values.shape, label)
    _refuse_non_finite(values, columns, label)
    return Table(_read_only(values), columns, integer, is_frame=is_frame)


def _refuse_empty(shape: tuple[int, ...], label: str) -> None:
    n_rows, n_columns = shape
    if not n_columns:
        raise InputError(f"{label}: expected at least one column, got none")
    if not n_rows:
        raise InputError(f"{label}: expected at least one row, got none")


def _refuse_non_finite(values: Reals, columns: Sequence[str], label: str) -> None:
    missing, not_finite, rows = np.zeros(len(columns), int), np.zeros(len(columns), int), 0
    for part in row_slices(len(values)):
        wrong = ~np.isfinite(values[part])
        missing += np.isnan(values[part]).sum(axis=0)
        not_finite += wrong.sum(axis=0)
        rows += int(wrong.any(axis=1).sum())
    if not rows:
        return
    infinite = not_finite - missing
    named = []
    for name, n_missing, n_infinite in zip(columns, missing, infinite, strict=True):
        counts = [f"{n_missing} NaN"] * bool(n_missing) + [f"{n_infinite} infinite"] * bool(n_infinite)
        if counts:
            named.append(f"{name} ({', '.join(counts)})")
    raise InputError(
        f"{label}: expected finite numbers, got missing or infinite ones in {rows} of {len(values)} rows, "
        f"{_count(named, 'column')}: {join_names(named)}; remove or impute them"
    )


def _count(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _default_names(dim: int) -> tuple[str, ...]:
    return tuple(f"x{place}" for place in range(dim))


def _gathered(
    values: npt.NDArray[Any],
    rows: npt.NDArray[np.integer[Any]] | npt.NDArray[np.bool_] | slice,
    places: Sequence[int] | None = None,
    *,
    copy: bool = False,
) -> Reals:
    """Rows and columns of an array in float64: a slice of rows as a view unless a copy is asked for."""
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


def _read_only(values: Reals) -> Reals:
    values = np.ascontiguousarray(values)
    values.flags.writeable = False
    return values


def _hash_values(table: Table) -> str:
    """SHA-256 of shape, names and numbers, the same on machines of either byte order."""
    digest = hashlib.sha256(repr((table.values.shape, table.columns)).encode())
    digest.update(np.ascontiguousarray(table.values, dtype="<f8").data)
    return digest.hexdigest()

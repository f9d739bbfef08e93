"""Reads a table and checks it once, at the door: files, frames and arrays to finite numbers with names.

    path, DataFrame or array  →  n × d float64, d distinct names, one hash

Large tables stay on the disk: a `.npy` file of float64 is looked into where it lies, other large numbers are
kept in a temporary file (`jkoflow.storage.scratch`). A table is identified by a hash, of the file's bytes or,
for rows that came from memory, of their shape, names and numbers. Source: FIPS 180-4, SHA-256.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from jkoflow.data.files import check_kind, hash_file, read_file
from jkoflow.data.parts import read_part
from jkoflow.data.shared_rows import SharedRows
from jkoflow.data.table import Table, count_of, gathered, join_names, read_only
from jkoflow.errors import InputError
from jkoflow.storage import shown
from jkoflow.storage.scratch import empty_array, is_large, row_slices
from jkoflow.world import World

__all__ = ["TableSource", "read_shared_table", "read_table"]

Reals = npt.NDArray[np.float64]
TableSource = str | os.PathLike[str] | pd.DataFrame | npt.ArrayLike
"""What `read_table` takes: the path of a file, a DataFrame, or anything that numpy makes a 2-D array of."""


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
    check_kind(source)
    digest = hash_file(source)
    raw = read_file(source)
    table = _from_memory(raw.content, shown(source), named=raw.names_columns)
    return replace(table, source=os.fspath(source), sha256=digest, notes=raw.notes)


def read_shared_table(path: str | os.PathLike[str], world: World, *, unit: int = 1) -> Table:
    """Read and check a table of which each process keeps a part, by rows; all of them tell of any fault.

    A process reads its own part alone of a `.parquet` or `.npy` file, and all of any other.

    Arguments:
        path: The file, the same for all processes.
        world: The processes; alone it is `read_table`.
        unit: Parts are of whole units of so many rows, but for the last.

    Raises:
        InputError: As `read_table`.
    """
    if world.size == 1:
        return read_table(path)
    table, fault = None, None
    try:
        table = _own_part(path, world, unit)
    except InputError as error:
        fault = error
    world.agree(fault)
    assert table is not None
    digest = ""
    try:
        digest = hash_file(path) if world.is_first else digest
    except InputError as error:
        fault = error
    world.agree(fault)
    flags = world.gather(torch.tensor([table.integer], dtype=torch.uint8))
    return replace(
        table,
        values=SharedRows(table.array, world),
        integer=tuple(bool(flag) for flag in flags.amin(dim=0)),
        sha256=world.broadcast(digest),
        source=os.fspath(path),
    )


def _own_part(path: str | os.PathLike[str], world: World, unit: int) -> Table:
    """The rows of this process, which may be none."""

    def own(n_rows: int) -> slice:
        return world.part(n_rows, unit=unit)

    def some(n_rows: int) -> slice:
        part = own(n_rows)
        return part if part.stop > part.start else slice(0, min(1, n_rows))  # of no row is no type known

    raw, part, n_rows = read_part(path, some)
    where = f"{shown(path)}, rows {part.start + 1:,} to {part.stop:,} of {n_rows:,}"
    table = _from_memory(raw.content, where, named=raw.names_columns)
    kept = len(table) if part == own(n_rows) else 0
    return replace(table, values=table.values[:kept], notes=raw.notes)


def _from_memory(content: object, label: str, *, named: bool) -> Table:
    if isinstance(content, pd.DataFrame):
        return _from_frame(content, label, is_frame=named)
    array = _as_array(content, label)
    _refuse_shape(array.shape, label)
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
    return gathered(array, slice(None), copy=True)


def _is_mapped(array: npt.NDArray[Any]) -> bool:
    part: object = array
    while isinstance(part, np.ndarray) and not isinstance(part, np.memmap):
        part = part.base
    return isinstance(part, np.memmap)


def _from_frame(frame: pd.DataFrame, label: str, *, is_frame: bool) -> Table:
    columns = tuple(str(name) for name in frame.columns)
    _refuse_shape(frame.shape, label)
    twice = sorted(name for name, count in Counter(columns).items() if count > 1)
    if twice:
        raise InputError(
            f"{label}: {count_of(twice, 'column name')} given twice: {join_names(twice)}; rename"
        )
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
    _refuse_shape(values.shape, label)
    _refuse_non_finite(values, columns, label)
    return Table(read_only(values), columns, integer, is_frame=is_frame)


def _refuse_shape(shape: tuple[int, ...], label: str, *, most: int = 100_000) -> None:
    """Refuse a table without rows or columns, or with more than `most` columns, whose names fill memory."""
    n_rows, n_columns = shape
    if not n_columns:
        raise InputError(f"{label}: expected at least one column, got none")
    if not n_rows:
        raise InputError(f"{label}: expected at least one row, got none")
    if n_columns > most:
        raise InputError(f"{label}: expected at most {most:,} columns, got {n_columns:,}; is it transposed?")


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
        f"{count_of(named, 'column')}: {join_names(named)}; remove or impute them"
    )


def _default_names(dim: int) -> tuple[str, ...]:
    return tuple(f"x{place}" for place in range(dim))


def _hash_values(table: Table) -> str:
    """SHA-256 of shape, names and numbers, the same on machines of either byte order."""
    digest = hashlib.sha256(repr((table.values.shape, table.columns)).encode())
    digest.update(np.ascontiguousarray(table.values, dtype="<f8").data)
    return digest.hexdigest()

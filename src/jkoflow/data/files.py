"""Tables on the disk: one reader and one writer per suffix, without pickle, and a hash of what was read.

A reader hands back what the file says, names and numbers; whether the numbers can be used is decided by
`jkoflow.data.reading`. A large array is not read but mapped: its file must stay as it is while it is in use.
A writer leaves either the old file or the whole new one, never a part of it.

    text ↔ float64 without loss: the shortest decimal that reads back as the same double

Source: Steele & White (1990), "How to print floating-point numbers accurately"; numpy.lib.format, version 1.
"""

from __future__ import annotations

import hashlib
import os
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from jkoflow.data.declared import NPY_HEADERS, check_npy, check_npz_member, check_parquet, check_start
from jkoflow.data.header import check_header, guarded, has_header, unguarded
from jkoflow.data.table import count_of, join_names
from jkoflow.errors import InputError
from jkoflow.global_state import warning_filters
from jkoflow.storage import open_regular, shown, staged_file, validate_new_output
from jkoflow.storage.scratch import empty_array, is_large

__all__ = [
    "SUFFIXES",
    "RawTable",
    "check_kind",
    "check_output",
    "hash_file",
    "names_guarded",
    "read_file",
    "reading",
    "write_table",
]

Array = npt.NDArray[Any]

_DAMAGE = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, EOFError, MemoryError, RuntimeError),
    *(SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""What numpy, pandas and pyarrow raise for bytes that are not what the suffix says."""

_NPZ_KEYS = ("x", "X", "data")
_NPY = np.lib.format.MAGIC_PREFIX
_SEPARATORS = {".csv": ",", ".tsv": "\t"}

_PANDAS = tuple(int(part) for part in pd.__version__.split(".")[:2])
_EXACT: dict[str, Any] = {} if _PANDAS >= (3, 1) else {"float_precision": "round_trip"}
"""How pandas is told to read every float64 to the last bit; from 3.1 on it does so without being told."""


@dataclass(frozen=True, eq=False)
class RawTable:
    """What a file holds, before any check of the numbers.

    Arguments:
        content: A DataFrame or an array, of whatever type and shape.
        names_columns: True where the file names its columns; a DataFrame then has those names.
        notes: What the reader had to decide, one line each.
    """

    content: pd.DataFrame | Array
    names_columns: bool
    notes: tuple[str, ...] = ()


def hash_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal; `InputError` where it cannot be read."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{shown(path)}: {_reason(error)}") from None


def check_kind(path: str | os.PathLike[str]) -> None:
    """Refuse, from its first bytes alone, a file that is not what its suffix says.

    Raises:
        InputError: It is missing, a folder, a pipe, a device, empty or of another kind.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in _READERS:
        raise InputError(f"{shown(path)}: expected a table ending in {SUFFIXES}, got {_suffix(path)}")
    try:
        with open_regular(path) as file:
            if not os.fstat(file.fileno()).st_size:
                raise InputError(f"{shown(path)}: the file is empty")
            check_start(file, kind)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise _damaged(path, error) from None
    except OSError as error:
        raise InputError(f"{shown(path)}: {_reason(error)}; name a table that can be read") from None


def read_file(path: str | os.PathLike[str]) -> RawTable:
    """Read a table by its suffix; `InputError` where it is missing, damaged, empty or of another kind."""
    path = Path(path)
    check_kind(path)
    with reading(path):
        return _READERS[path.suffix.lower()](path)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what a library says of bytes that are not what the suffix says into an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except ImportError as error:
        raise InputError(
            f"{shown(path)}: {path.suffix} needs a package that is missing: {_reason(error)}"
        ) from None
    except _DAMAGE as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: BaseException) -> InputError:
    kind = path.suffix.lower()
    return InputError(f"{shown(path)}: not a readable {kind} file, damaged or cut short ({_reason(error)})")


def _reason(error: BaseException) -> str:
    """The first line of a library's message, the part of it that helps."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0]


def _suffix(path: Path) -> str:
    return repr(path.suffix) if path.suffix else "no suffix"


# ── text ──


def _read_text(path: Path) -> RawTable:
    separator = _SEPARATORS[path.suffix.lower()]
    common: dict[str, Any] = {"sep": separator, "skipinitialspace": True}
    try:
        first = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, **common)
    except pd.errors.EmptyDataError:
        raise InputError(f"{shown(path)}: the file is empty") from None
    fields = [str(field).strip() for field in first.iloc[0]]
    headed = has_header(path, fields)
    if headed:
        check_header(path, fields)
    with warning_filters():
        # pandas drops the surplus of rows that are longer than the header, and only warns
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            frame = pd.read_csv(
                path,
                header=0 if headed else None,
                names=list(range(len(fields))),
                index_col=False,
                low_memory=False,
                **_EXACT,
                **common,
            )
        except pd.errors.ParserWarning:
            raise InputError(
                f"{shown(path)}: the rows have more fields than the header's {len(fields)}; name every column"
            ) from None
    names = map(unguarded, fields) if headed else (f"x{place}" for place in frame.columns)
    frame.columns = pd.Index(list(names))
    if headed:
        return RawTable(frame, names_columns=True)
    note = f"{shown(path)}: no header, the first line was read as a row"
    return RawTable(frame, names_columns=False, notes=(note,))


# ── binary ──


def _read_parquet(path: Path) -> RawTable:
    check_parquet(path)
    return RawTable(pd.read_parquet(path), names_columns=True)


def _read_npy(path: Path) -> RawTable:
    # opened here, because numpy leaves a damaged archive open
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        is_array = file.read(len(_NPY)) == _NPY
        file.seek(0)
        if is_array:
            check_npy(file, size)
            if is_large(size):
                return RawTable(np.load(path, mmap_mode="r", allow_pickle=False), names_columns=False)
        content = np.load(file, allow_pickle=False)
    if not isinstance(content, np.ndarray):
        raise InputError(f"{shown(path)}: this is an archive of several arrays; name it .npz")
    return RawTable(content, names_columns=False)


def _read_npz(path: Path) -> RawTable:
    with open(path, "rb") as file:
        archive = np.load(file, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise InputError(f"{shown(path)}: this is a single array; name it .npy")
        keys = list(archive.files)
        wanted = keys if len(keys) == 1 else [key for key in _NPZ_KEYS if key in keys]
        if not wanted:
            raise InputError(
                f"{shown(path)}: expected one array, or one named x, X or data, "
                f"got {', '.join(keys) or 'none'}; save the table alone"
            )
        if archive.zip is not None and f"{wanted[0]}.npy" in archive.zip.namelist():
            check_npz_member(archive.zip, f"{wanted[0]}.npy")
        return RawTable(_member(archive, wanted[0]), names_columns=False)


def _member(archive: np.lib.npyio.NpzFile, key: str, *, read_bytes: int = 2**24) -> Array:
    """One array of an archive; a large one goes straight to where large arrays live, 16 MB at a time."""
    if archive.zip is None or not is_large(archive.zip.getinfo(f"{key}.npy").file_size):
        return np.asarray(archive[key])
    with archive.zip.open(f"{key}.npy") as member:
        version = np.lib.format.read_magic(member)
        shape, column_by_column, dtype = NPY_HEADERS[version](member)
        values = empty_array(shape[::-1] if column_by_column else shape, dtype)
        empty = memoryview(values.data).cast("B")
        while len(empty):
            part = member.read(min(len(empty), read_bytes))
            if not part:
                raise EOFError(f"{len(empty)} bytes are missing")
            empty[: len(part)] = part
            empty = empty[len(part) :]
        return values.T if column_by_column else values


_READERS: dict[str, Callable[[Path], RawTable]] = {
    ".csv": _read_text,
    ".tsv": _read_text,
    ".parquet": _read_parquet,
    ".npy": _read_npy,
    ".npz": _read_npz,
}
SUFFIXES = ", ".join(_READERS)
"""The suffixes that are read and written, as a message lists them."""


# ── writing ──


def check_output(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Refuse a file that `write_table` could not write, so that a caller can ask before it computes.

    Raises:
        InputError: The suffix is none of `SUFFIXES`, or the path is no place for a file.
        RunFolderError: The file is there and `overwrite` is False, or its folder is not writable.
    """
    path = Path(path)
    if path.suffix.lower() not in _READERS:
        raise InputError(f"{shown(path)}: expected an output ending in {SUFFIXES}, got {_suffix(path)}")
    return validate_new_output(path, overwrite=overwrite)


def names_guarded(path: str | os.PathLike[str], columns: Sequence[str]) -> str:
    """One line on the names that `write_table` puts behind an apostrophe; empty where it does to none."""
    names = [name for name in columns if guarded(name) != name]
    if Path(path).suffix.lower() not in _SEPARATORS or not names:
        return ""
    return (
        f"note: {count_of(names, 'column name')} would be a formula to a spreadsheet and stand behind an "
        f"apostrophe in {shown(path)}, which jkoflow takes away when it reads them: {join_names(names)}"
    )


def write_table(
    path: str | os.PathLike[str],
    values: npt.ArrayLike,
    columns: Sequence[str],
    *,
    overwrite: bool = False,
) -> None:
    """Write rows by suffix, whole or not at all; text holds every float64 to the last bit.

    Arguments:
        path: Ends in one of `SUFFIXES`; `.npz` stores the array as `x`.
        values: Shape (n, d), or (n,) with one name in `columns`; `.npy` and `.npz` keep the shape (n,).
        columns: d names; `.npy` and `.npz` have no place for them, and text has those that a spreadsheet
            would take for a formula behind an apostrophe.
        overwrite: Replace a file that is there.

    Raises:
        InputError: As `check_output`, or the names do not fit the values.
        RunFolderError: As `check_output`, or the file cannot be written (the disk is full).
    """
    check_output(path, overwrite=overwrite)
    array = np.asarray(values, dtype=np.float64)
    width = 1 if array.ndim == 1 else array.shape[-1]
    if array.ndim not in (1, 2) or width != len(columns):
        raise InputError(f"expected rows of {len(columns)} columns to write, got an array of {array.shape}")
    with staged_file(path, overwrite=overwrite) as staged, open(staged, "wb") as file:
        suffix = Path(path).suffix.lower()
        if suffix == ".npy":
            # through memory: numpy's own way to a file loses the system's reason when the disk is full
            buffer = BytesIO()
            np.save(buffer, array, allow_pickle=False)
            file.write(buffer.getbuffer())
        elif suffix == ".npz":
            np.savez(file, x=array)
        else:
            frame = pd.DataFrame(array.reshape(-1, width), columns=pd.Index(list(columns)))
            if suffix == ".parquet":
                frame.to_parquet(file, index=False)
            else:
                frame.columns = pd.Index([guarded(name) for name in columns])
                frame.to_csv(file, sep=_SEPARATORS[suffix], index=False)

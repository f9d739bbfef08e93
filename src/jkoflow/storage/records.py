r"""JSON that any reader accepts: one object a file, or one object a line in a file that only grows.

    file  = {"format": "jkoflow/1", …}
    lines = {"format": "jkoflow/1", …} "\n" {"format": "jkoflow/1", …} "\n" …

A line counts once its line end is on the disk; what a kill left after the last line end is not a record.
Source: RFC 8259, section 6: numbers that cannot be written as digits, such as NaN, are not permitted.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from jkoflow.errors import RunFolderError
from jkoflow.storage.files import (
    O_BINARY,
    RESTORE,
    read_bytes,
    read_error,
    shown,
    sync_folder,
    write_all,
    write_bytes_atomic,
    writing,
)

__all__ = [
    "FORMAT",
    "append_jsonl",
    "encode_json",
    "read_json",
    "read_jsonl",
    "require_format",
    "to_json",
    "write_json_atomic",
    "write_jsonl_atomic",
]

FORMAT = "jkoflow/1"
"""The `format` entry of every JSON object and safetensors file that the library writes."""

MOST_RECORDS_BYTES = 2**28
"""Largest file of one record a line that is read, 256 MB: some 100,000 times the record of a fit."""

_CHUNK = 1 << 16

_ARRAY_LIBRARIES = {"numpy", "torch"}
"""Known by name: records are read and written before either is loaded."""


def to_json(value: object) -> Any:
    """Return `value` in the types of JSON.

    NaN and infinities become None, tuples lists, numbers of NumPy and torch Python's.

    Raises:
        TypeError: There is something else in it, or a key that is not a string.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Mapping):
        if strange := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"JSON: expected keys that are strings, got {strange[0]!r}")
        return {key: to_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(entry) for entry in value]
    if type(value).__module__.partition(".")[0] in _ARRAY_LIBRARIES:
        return to_json(value.tolist())  # type: ignore[attr-defined]  # numbers and arrays of both have it
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    raise TypeError(f"JSON: expected numbers, strings, lists and dicts, got {type(value).__name__}")


def encode_json(value: Mapping[str, Any], *, indent: int | None = None) -> bytes:
    """Return strict JSON in UTF-8, the `format` entry first; the same value gives the same bytes."""
    content = to_json({"format": FORMAT, **value})
    text = json.dumps(content, allow_nan=False, ensure_ascii=False, indent=indent)
    try:
        return text.encode()
    except UnicodeEncodeError:  # a file name that is not Unicode holds lone surrogates
        return json.dumps(content, allow_nan=False, indent=indent).encode()


def write_json_atomic(
    path: str | os.PathLike[str], value: Mapping[str, Any], *, overwrite: bool = True
) -> None:
    """Write one JSON object with its `format` entry; numbers that are not finite become null.

    Raises:
        InputError, RunFolderError: As `staged_file`.
    """
    write_bytes_atomic(path, encode_json(value, indent=2) + b"\n", overwrite=overwrite)


def read_json(path: str | os.PathLike[str], *, remedy: str = RESTORE) -> dict[str, Any]:
    """Read one JSON object that carries `"format": "jkoflow/1"`.

    Arguments:
        path: The file.
        remedy: What the user can do when it cannot be used; ends the message.

    Raises:
        RunFolderError: The file is missing, unreadable, damaged or half-written, or of another format.
    """
    return _decode(read_bytes(path, remedy=remedy), path, "not a JSON object", remedy)


def require_format(found: object, path: str | os.PathLike[str], *, remedy: str = RESTORE) -> None:
    """Refuse, as a RunFolderError, a `format` entry that this version cannot read; a later one by name."""
    if found == FORMAT:
        return
    if isinstance(found, str) and found.startswith("jkoflow/"):
        raise RunFolderError(
            f"{shown(path)}: expected format {FORMAT!r}, got {shown(found[:40])!r} from another version of "
            "jkoflow; read it with that version (pip install --upgrade jkoflow)"
        )
    raise RunFolderError(f"{shown(path)}: not a file of format {FORMAT!r}; {remedy}")


def append_jsonl(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Append one record, on the disk when this returns; a torn last line is cut off first.

    Raises:
        RunFolderError: The file cannot be written; it then holds the records it held before.
    """
    path = Path(path)
    line = encode_json(record) + b"\n"
    with writing(path):
        is_new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | O_BINARY, 0o666)
        try:
            _append_line(descriptor, line)
        finally:
            os.close(descriptor)
        if is_new:
            sync_folder(path.parent)


def write_jsonl_atomic(path: str | os.PathLike[str], records: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole file of records in place of the old one; errors as `staged_file`."""
    write_bytes_atomic(path, b"".join(encode_json(record) + b"\n" for record in records))


def read_jsonl(path: str | os.PathLike[str], *, remedy: str = RESTORE) -> list[dict[str, Any]]:
    """Read every whole record: none where there is no file yet, and none from a torn last line.

    Raises:
        RunFolderError: The file cannot be read, a whole line is damaged, or a record is of another format.
    """
    if not os.path.lexists(path):
        return []
    lines = read_bytes(path, remedy=remedy, most=MOST_RECORDS_BYTES).split(b"\n")[:-1]
    return [_decode(line, path, f"line {i} is not a JSON object", remedy) for i, line in enumerate(lines, 1)]


def _decode(data: bytes, path: str | os.PathLike[str], damage: str, remedy: str) -> dict[str, Any]:
    try:
        content = json.loads(data.decode(), parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError, MemoryError) as error:
        raise read_error(path, damage, remedy=remedy) from error
    if not isinstance(content, dict):
        raise read_error(path, damage, remedy=remedy)
    require_format(content.get("format"), path, remedy=remedy)
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    """The number of JSON; one such as 1e999, which a float cannot hold, is damage and not infinity."""
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is beyond the range of a float")
    return number


def _append_line(descriptor: int, line: bytes) -> None:
    size = os.fstat(descriptor).st_size
    whole = _size_of_whole_lines(descriptor, size)
    if whole < size:
        os.ftruncate(descriptor, whole)
    try:
        write_all(descriptor, line)
        os.fsync(descriptor)
    except BaseException:
        with suppress(OSError):
            os.ftruncate(descriptor, whole)
        raise


def _size_of_whole_lines(descriptor: int, size: int) -> int:
    end = size
    while end > 0:
        start = max(0, end - _CHUNK)
        os.lseek(descriptor, start, os.SEEK_SET)
        chunk = os.read(descriptor, end - start)
        if (last := chunk.rfind(b"\n")) >= 0:
            return start + last + 1
        end = start
    return 0

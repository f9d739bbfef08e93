"""What a binary table declares of itself, held against the size of its file before anything is allocated.

    .npy      bytes of header + prod(shape) x bytes of a number = bytes of the file
    .npz      the same of the member; deflate makes a file at most 1,032 times as small
    .parquet  rows x columns against the bytes of the file

Source: numpy.lib.format, version 1; RFC 1951 for deflate; the Parquet format's file metadata.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

__all__ = ["NPY_HEADERS", "check_npy", "check_npz_member", "check_parquet", "check_start"]

NPY_HEADERS: dict[tuple[int, int], Callable[[Any], tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
"""How the header of each version of the format that holds plain numbers is read."""

_STARTS = {
    ".npy": (np.lib.format.MAGIC_PREFIX, b"PK"),
    ".npz": (np.lib.format.MAGIC_PREFIX, b"PK"),
    ".parquet": (b"PAR1",),
}


def check_start(file: IO[bytes], suffix: str, *, looked_at: int = 2**16) -> None:
    """Refuse a file whose first bytes are not those of its kind, before the rest of it is read.

    Arguments:
        file: Opened at its start; it is back there afterwards.
        suffix: Its kind.
        looked_at: Bytes of text that must hold no zero byte, as no table in UTF-8 does.

    Raises:
        ValueError: They are not.
    """
    start = file.read(looked_at)
    file.seek(0)
    if suffix in _STARTS:
        if not start.startswith(_STARTS[suffix]):
            raise ValueError(f"its first bytes are not those of a {suffix} file")
    elif b"\0" in start:
        raise ValueError("it holds zero bytes, so it is no text")


def check_npy(file: IO[bytes], size: int) -> None:
    """Refuse an array whose header declares other bytes than follow it.

    Arguments:
        file: Opened at its start; it is back there afterwards.
        size: Bytes of the whole.

    Raises:
        ValueError: It does, or holds something other than plain values.
    """
    version = np.lib.format.read_magic(file)
    if version not in NPY_HEADERS:
        raise ValueError(f"version {version[0]}.{version[1]} of the format, expected 1.0 or 2.0")
    shape, _, dtype = NPY_HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if not dtype.itemsize or any(length < 0 for length in shape):
        raise ValueError(f"it declares values of {dtype} in shape {shape}")
    expected = math.prod(shape) * dtype.itemsize
    if expected != size - file.tell():
        raise ValueError(
            f"its header declares shape {shape}, {expected:,} bytes, and {size - file.tell():,} follow"
        )
    file.seek(0)


def check_npz_member(archive: zipfile.ZipFile, name: str, *, ratio: int = 1032, slack: int = 2**10) -> None:
    """Refuse a member that is larger than its compressed bytes can be, or other than its header declares.

    Arguments:
        archive: The archive.
        name: The member.
        ratio: By how much deflate makes bytes fewer, at most.
        slack: Bytes that are allowed on top.

    Raises:
        ValueError: So it is.
    """
    member = archive.getinfo(name)
    packed = ratio if member.compress_type == zipfile.ZIP_DEFLATED else 1
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"its member {name} is compressed in a way that numpy does not write")
    if member.file_size > packed * member.compress_size + slack:
        raise ValueError(f"its member {name} declares {member.file_size:,} bytes, more than it can hold")
    with archive.open(name) as file:
        check_npy(file, member.file_size)


def check_parquet(path: Path, *, per_byte: int = 1000, few: int = 2**22) -> None:
    """Refuse a file that declares more numbers than columns that vary can be compressed from.

    Arguments:
        path: The file.
        per_byte: Numbers for each byte of the file, at most.
        few: Numbers that are read in any case.

    Raises:
        ValueError: It does.
    """
    # half a second to import, which other files have no need of
    from pyarrow.parquet import read_metadata

    declared = read_metadata(path)
    count = declared.num_rows * declared.num_columns
    if count > max(few, per_byte * path.stat().st_size):
        raise ValueError(
            f"it declares {declared.num_rows:,} rows of {declared.num_columns:,} columns in "
            f"{path.stat().st_size:,} bytes"
        )

"""Arrays that may be larger than the memory: from a certain size on they live in a file without a name.

    bytes >= 2^28  ->  shared mapping of a temporary file, read and written through the system's page cache

The file is made by `tempfile` (`TMPDIR` says where) and has no name in its folder, so nothing is left behind:
the disk is free again as soon as the last array that looks into it is gone, after an exception or a kill too.
Rows are read and written a chunk at a time. Source: POSIX.1-2017, mmap() and unlink().
"""

from __future__ import annotations

import math
import os
import tempfile
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from jkoflow.errors import InputError

__all__ = ["CHUNK_ROWS", "MAPPED_BYTES", "empty_array", "is_large", "row_slices"]

MAPPED_BYTES = 2**28
"""Arrays of at least this many bytes (256 MB) are mapped to the disk; smaller ones are in memory."""

CHUNK_ROWS = 2**16
"""Rows that are read, checked or encoded at once; a multiple of 16, see `row_slices`."""


def is_large(n_bytes: int) -> bool:
    """Whether an array of so many bytes belongs on the disk."""
    return n_bytes >= MAPPED_BYTES


def empty_array(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array to be filled: in memory, or mapped to a temporary file where it is large.

    Raises:
        InputError: The folder for temporary files has no room for it.
    """
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if n_bytes == 0 or not is_large(n_bytes):
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(prefix="jkoflow") as file:
        _reserve(file, n_bytes)
        return np.asarray(np.memmap(file, dtype=dtype, mode="r+", shape=shape))


def row_slices(n_rows: int, size: int | None = None) -> list[slice]:
    """The rows in order, `size` at a time (`CHUNK_ROWS`); what is left over joins the last slice.

    No slice but the only one is then shorter than `size`, so that torch's normal numbers, which come in
    groups of 16, are the same drawn slice by slice as drawn at once.
    """
    size = CHUNK_ROWS if size is None else size
    n_slices = max(1, n_rows // size)
    ends = [*(size * number for number in range(1, n_slices)), n_rows]
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def _reserve(file: IO[bytes], n_bytes: int) -> None:
    """Claim the disk now: a mapped file that finds it full later ends the process."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        else:
            file.truncate(n_bytes)
    except OSError as error:
        raise InputError(
            f"expected {n_bytes / 2**20:,.0f} MB free in {tempfile.gettempdir()} for rows that do not fit in "
            f"memory ({error.strerror}); set TMPDIR to a folder with more room"
        ) from None

"""Tensors in files that run no code when they are read.

    file = length of header ; header (JSON: dtype, shape, place of each tensor) ; bytes of the tensors

What a header declares is compared with the size of the file before the bytes are read. Source: the
safetensors format, version 0.4; its free `__metadata__` carries the `format` entry alone, so that the same
tensors give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from jkoflow.storage.entries import brief, is_whole
from jkoflow.storage.files import RESTORE, open_regular, read_bytes, read_error, write_bytes_atomic
from jkoflow.storage.records import FORMAT, require_format

__all__ = [
    "Declared",
    "packed_tensors",
    "read_declared",
    "read_safetensors",
    "unpacked_tensors",
    "write_safetensors",
]

MOST_TENSOR_BYTES = 2**32
"""Largest file of tensors that is read, 4 GB: a hundred times the largest model of the benchmarks."""

MOST_HEADER_BYTES = 2**24
"""Largest header that is read, 16 MB: some 100,000 tensors."""

_ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}


@dataclass(frozen=True)
class Declared:
    """What a header says of one tensor.

    Arguments:
        dtype: Its name in the format, such as `"F32"`.
        shape: Its shape.
    """

    dtype: str
    shape: tuple[int, ...]


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], *, overwrite: bool = True
) -> str:
    """Write tensors of any shape, dtype and device.

    Returns:
        SHA-256 of the file, hexadecimal.

    Raises:
        InputError, RunFolderError: As `staged_file`.
    """
    data = packed_tensors(tensors)
    write_bytes_atomic(path, data, overwrite=overwrite)
    return hashlib.sha256(data).hexdigest()


def packed_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors of any shape, dtype and device as the bytes of a file; the same tensors give the same bytes."""
    # copies, since safetensors refuses tensors that share memory or are not contiguous
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(copies, metadata={"format": FORMAT})


def unpacked_tensors(data: bytes) -> dict[str, Tensor]:
    """The tensors that `packed_tensors` made these bytes of, on the CPU."""
    return safetensors.torch.load(data)


def read_declared(path: str | os.PathLike[str], *, remedy: str = RESTORE) -> dict[str, Declared]:
    """Read what the header of a file of tensors declares, and no tensor.

    Raises:
        RunFolderError: The file is missing, unreadable or of another format, or its header is damaged or
            declares other bytes than the file has.
    """
    declared, found = _read_header(path, remedy)
    require_format(found, path, remedy=remedy)
    return declared


def read_safetensors(
    path: str | os.PathLike[str], *, sha256: str | None = None, remedy: str = RESTORE
) -> dict[str, Tensor]:
    """Read tensors onto the CPU, in the dtypes they were written in.

    Arguments:
        path: The file.
        sha256: What `write_safetensors` returned; None where it is not known.
        remedy: What the user can do when the file cannot be used; ends the message.

    Raises:
        RunFolderError: As `read_declared`, or its hash is another.
    """
    _, format_found = _read_header(path, remedy)
    data = read_bytes(path, remedy=remedy, most=MOST_TENSOR_BYTES)
    if sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != sha256:
        damage = f"expected SHA-256 {sha256[:12]}…, got {found[:12]}…"
        raise read_error(path, damage, remedy=remedy)
    require_format(format_found, path, remedy=remedy)
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise read_error(path, "not a safetensors file", remedy=remedy) from error


def _read_header(path: str | os.PathLike[str], remedy: str) -> tuple[dict[str, Declared], object]:
    """What the header declares, once that fits the size of the file, and its `format` entry."""
    try:
        with open_regular(path) as file:
            header, size = _header_of(file)
        metadata = header.pop("__metadata__", {})
        declared = {name: _declared(name, entry) for name, entry in header.items()}
        _require_filled(header, size)
    except OSError as error:
        raise read_error(path, error, remedy=remedy) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise read_error(path, f"not a safetensors file: {error}", remedy=remedy) from error
    return declared, metadata.get("format") if isinstance(metadata, dict) else None


def _header_of(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The header, and how many bytes follow it."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(size - 8, MOST_HEADER_BYTES):
        raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
    header = json.loads(file.read(length).decode())
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    return header, size - 8 - length


def _declared(name: str, entry: object) -> Declared:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {brief(name)}: expected dtype, shape and data_offsets, got {brief(entry)}")
    dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise ValueError(f"tensor {brief(name)}: unknown dtype {brief(dtype)}")
    for numbers, what in ((shape, "shape"), (place, "data_offsets")):
        if not _are_sizes(numbers):
            raise ValueError(f"tensor {brief(name)}: expected {what} of whole numbers, got {brief(numbers)}")
    if len(place) != 2 or math.prod(shape) * _ITEM_BYTES[dtype] != place[1] - place[0]:
        raise ValueError(f"tensor {brief(name)}: {dtype} of shape {brief(shape)} in bytes {brief(place)}")
    return Declared(dtype, tuple(shape))


def _are_sizes(numbers: object, *, most: int = 8) -> bool:
    """Whether these are few whole numbers that a file system could hold."""
    if not isinstance(numbers, list) or len(numbers) > most:
        return False
    return all(is_whole(number) and 0 <= number < 2**62 for number in numbers)


def _require_filled(entries: Mapping[str, Any], size: int) -> None:
    """Refuse tensors that overlap, leave gaps, or do not end where the file does."""
    end = 0
    for start, stop in sorted(entry["data_offsets"] for entry in entries.values()):
        if start != end:
            raise ValueError(f"tensors that leave a gap or overlap at byte {start:,}")
        end = stop
    if end != size:
        raise ValueError(f"tensors of {end:,} bytes declared, {size:,} there")

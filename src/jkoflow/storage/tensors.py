"""Tensors in files that run no code when they are read.

    file = length of header ; header (JSON: dtype, shape, place of each tensor) ; bytes of the tensors

Source: the safetensors format, version 0.4; its free `__metadata__` carries the `format` entry alone, so that
the same tensors give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from jkoflow.storage.files import RESTORE, read_bytes, read_error, write_bytes_atomic
from jkoflow.storage.records import FORMAT, require_format

__all__ = ["read_safetensors", "write_safetensors"]


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], *, overwrite: bool = True
) -> str:
    """Write tensors of any shape, dtype and device.

    Returns:
        SHA-256 of the file, hexadecimal.

    Raises:
        InputError, RunFolderError: As `staged_file`.
    """
    # copies, since safetensors refuses tensors that share memory or are not contiguous
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    data = safetensors.torch.save(copies, metadata={"format": FORMAT})
    write_bytes_atomic(path, data, overwrite=overwrite)
    return hashlib.sha256(data).hexdigest()


def read_safetensors(
    path: str | os.PathLike[str], *, sha256: str | None = None, remedy: str = RESTORE
) -> dict[str, Tensor]:
    """Read tensors onto the CPU, in the dtypes they were written in.

    Arguments:
        path: The file.
        sha256: What `write_safetensors` returned; None where it is not known.
        remedy: What the user can do when the file cannot be used; ends the message.

    Raises:
        RunFolderError: The file is missing, unreadable or damaged, or its hash or format is another.
    """
    data = read_bytes(path, remedy=remedy)
    if sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != sha256:
        damage = f"expected SHA-256 {sha256[:12]}…, got {found[:12]}…"
        raise read_error(path, damage, remedy=remedy)
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise read_error(path, "not a safetensors file", remedy=remedy) from error
    require_format(header.get("__metadata__", {}).get("format"), path, remedy=remedy)
    return tensors

"""One pair of files for every finished block, so that a fit goes on after the last of them.

    checkpoints/block_0001.safetensors      tensors
    checkpoints/block_0001.json             SHA-256 of the tensors; meta and its SHA-256

The JSON is written last and commits: tensors without it are half-written and do not count. Source: the commit
record of write-ahead logging, Mohan et al. (1992), ARIES, ACM TODS 17(1).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from jkoflow.errors import RunFolderError
from jkoflow.storage import (
    encode_json,
    read_error,
    read_json,
    shown,
    sync_folder,
    to_json,
    write_json_atomic,
    writing,
)
from jkoflow.storage.tensors import read_safetensors, write_safetensors

__all__ = [
    "checkpointed_blocks",
    "drop_checkpoints",
    "drop_half_written",
    "has_checkpoint",
    "read_checkpoint",
    "write_checkpoint",
]

_NAME = re.compile(r"block_(\d{4,})\.(json|safetensors)")


def write_checkpoint(
    folder: Path, block: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    """Write block number `block`, counted from 1; it counts once this returns, and not before.

    Raises:
        RunFolderError: It cannot be written; the checkpoint then does not exist.
    """
    with writing(folder):
        if not folder.is_dir():
            folder.mkdir()
            sync_folder(folder.parent)
    tensors_file, json_file = _files(folder, block)
    content = to_json(meta)
    sha256 = write_safetensors(tensors_file, tensors)
    record = {"block": block, "tensors_sha256": sha256, "meta_sha256": _hash(content), "meta": content}
    write_json_atomic(json_file, record)


def read_checkpoint(folder: Path, block: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and meta of one block.

    Raises:
        RunFolderError: A file is missing or damaged; the message names it and how to go on without it.
    """
    tensors_file, json_file = _files(folder, block)
    remedy = _remedy(block)
    record = read_json(json_file, remedy=remedy)
    meta, sha256 = record.get("meta"), record.get("tensors_sha256")
    if not isinstance(meta, dict) or not isinstance(sha256, str) or record.get("meta_sha256") != _hash(meta):
        raise read_error(json_file, "its meta does not have its SHA-256", remedy=remedy)
    return read_safetensors(tensors_file, sha256=sha256, remedy=remedy), meta


def checkpointed_blocks(folder: Path) -> int:
    """Return n, where blocks 1 to n have checkpoints; RunFolderError where one of them is missing."""
    blocks = _blocks(folder, "json")
    for expected, block in enumerate(blocks, start=1):
        if block != expected:
            missing = _files(folder, expected)[1]
            raise RunFolderError(f"{shown(missing)}: missing, though later ones exist; {_remedy(expected)}")
    return len(blocks)


def has_checkpoint(folder: Path, block: int) -> bool:
    """Whether block number `block` has been written whole."""
    return _files(folder, block)[1].exists()


def drop_checkpoints(folder: Path, *, after: int) -> None:
    """Delete the checkpoints of the blocks later than `after`, the last first, so that 1 to n stay whole."""
    for block in reversed(_blocks(folder, "json")):
        if block > after:
            _files(folder, block)[1].unlink()
    drop_half_written(folder)


def drop_half_written(folder: Path) -> None:
    """Delete the tensors of blocks that have no JSON."""
    for block in set(_blocks(folder, "safetensors")) - set(_blocks(folder, "json")):
        _files(folder, block)[0].unlink()


def _files(folder: Path, block: int) -> tuple[Path, Path]:
    stem = f"block_{block:04d}"
    return folder / f"{stem}.safetensors", folder / f"{stem}.json"


def _blocks(folder: Path, kind: str) -> list[int]:
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    found = [match for name in names if (match := _NAME.fullmatch(name))]
    return sorted(int(match[1]) for match in found if match[2] == kind)


def _hash(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(encode_json(meta)).hexdigest()


def _remedy(block: int) -> str:
    kept = f"blocks 1 to {block - 1}" if block > 2 else "block 1" if block == 2 else "no block"
    return (
        f"delete block_{block:04d}.* and all later ones there to --resume with {kept}, "
        "or train again with --overwrite"
    )

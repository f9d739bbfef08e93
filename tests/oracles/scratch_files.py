"""Where large arrays are: forced to the disk for a test, and counted."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import numpy as np
import pytest

from jkoflow.storage import scratch


def map_everything(monkeypatch: pytest.MonkeyPatch, folder: Path, *, chunk_rows: int = 16) -> Path:
    """Every array to the disk, under a folder of its own, and a few rows at a time."""
    folder = folder / "scratch"
    folder.mkdir()
    monkeypatch.setattr(scratch, "MAPPED_BYTES", 0)
    monkeypatch.setattr(scratch, "CHUNK_ROWS", chunk_rows)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def mapped_files(folder: Path) -> int:
    """How many mappings of files under `folder` this process has; Linux only."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("the system does not tell what is mapped")
    gc.collect()
    return sum(str(folder) in line for line in maps.read_text().splitlines())


def lies_in_a_file(array: object) -> bool:
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return isinstance(array, np.memmap)

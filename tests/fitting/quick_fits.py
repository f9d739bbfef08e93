"""A small table, quick fits of it, and what the tests of fits compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jkoflow.config import Settings
from jkoflow.data import Table, read_table, write_table
from jkoflow.fitting import Fitted
from jkoflow.fitting import fit_table as fit_slowly
from jkoflow.runs import RunFolder
from oracles.quick_training import quick_recipe

__all__ = [
    "BLOCKS",
    "fit_run",
    "fit_table",
    "model_bytes",
    "settings",
    "stored",
    "values",
    "without_seconds",
]

BLOCKS = 3


def fit_table(table: Table, **options: Any) -> Fitted:
    """A fit by the quick recipe."""
    return fit_slowly(table, **{"recipe": quick_recipe(), **options})


def values(n: int = 120, seed: int = 0) -> np.ndarray:
    """Two clusters."""
    rng = np.random.default_rng(seed)
    return rng.choice([-1.5, 1.5], size=(n, 1)) + 0.4 * rng.normal(size=(n, 2))


def settings(**options: Any) -> Settings:
    return Settings(**{"max_blocks": BLOCKS, "holdout_fraction": 0.1, **options})


def stored(folder: Path) -> Table:
    """The table on the disk, as the shell reads it."""
    write_table(folder / "table.csv", values(), ["a", "b"])
    return read_table(folder / "table.csv")


def fit_run(table: Table, run: Path, chosen: Settings, progress: Any = lambda record: None) -> Fitted:
    with RunFolder.open(run, "resume") as folder:
        return fit_table(table, settings=chosen, run=folder, progress=progress)


def without_seconds(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if not key.startswith("cpu_seconds")}


def model_bytes(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()

"""Rows of a result file: what each carries of the run that made it, and how they are appended.

row = {run id, versions, machine, settings} | {what was measured},    one JSON object a line
"""

from __future__ import annotations

import json
import math
import platform
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import jkoflow

__all__ = ["append_rows", "mean_with_error", "run_head"]


def run_head(*, run: str | None = None, **settings: Any) -> dict[str, Any]:
    """What every row of a run carries: its id (a new one if None), versions, machine and `settings`."""
    return {
        "run": run or uuid.uuid4().hex[:12],
        "jkoflow": jkoflow.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        **settings,
    }


def append_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append a line for each row; the file and its folder are made where missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as results:
        results.writelines(json.dumps(row) + "\n" for row in rows)


def mean_with_error(name: str, nats: npt.NDArray[np.float64]) -> dict[str, float]:
    """The fields `name` and `name_se`: mean over rows `(n,)` and its standard error."""
    return {name: float(nats.mean()), f"{name}_se": float(nats.std(ddof=1) / math.sqrt(len(nats)))}

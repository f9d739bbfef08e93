"""Experiments as modules, with their own folder on the path as when they are run."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "experiments"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`experiments/NAME.py`, not run."""
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def run(module: ModuleType, folder: Path, *options: str) -> list[dict[str, Any]]:
    """The rows of a run that writes below `folder`, after a look at what it left there."""
    module.main(["--folder", str(folder), *options])
    assert (folder / "docs" / "experiments" / f"{module.NAME}.png").stat().st_size > 5_000
    record = json.loads((folder / "experiments" / "results" / f"{module.NAME}.json").read_text())
    assert record["experiment"] == module.NAME
    rows: list[dict[str, Any]] = record["rows"]
    return rows

"""The table of a run, read again: only where it is, and only unchanged."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jkoflow.config import Settings
from jkoflow.data import read_table, write_table
from jkoflow.fitting import fit_table
from jkoflow.runs import RunFolder
from jkoflow.runs.table import FoundTable, find_table
from oracles.quick_training import quick_recipe

ROWS = np.random.default_rng(0).normal(size=(40, 3))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of columns a and b given c."""
    write_table(tmp_path / "table.csv", ROWS, ["a", "b", "c"])
    table = read_table(tmp_path / "table.csv")
    rest, given = (replace(table.select(names), sha256=table.sha256) for names in (["a", "b"], ["c"]))
    with RunFolder.open(tmp_path / "run", "new") as folder:
        fit_table(
            rest,
            context=given,
            settings=Settings(max_blocks=1),
            run=folder,
            recipe=quick_recipe(updates=4),
        )
    return tmp_path / "run"


def found(run: Path) -> tuple[FoundTable | None, str]:
    with RunFolder.open(run, "read") as folder:
        return find_table(folder)


def test_table_and_context_are_those_of_the_fit(run: Path) -> None:
    there, why = found(run)
    assert why == ""
    assert there is not None
    assert there.context is not None
    assert (there.table.columns, there.context.columns) == (("a", "b"), ("c",))
    assert there.weight is None
    np.testing.assert_allclose(there.table.values, ROWS[:, :2])


def test_a_copy_in_the_run_folder_serves_as_well(run: Path) -> None:
    shutil.move(run.parent / "table.csv", run / "table.csv")
    assert found(run)[1] == ""


def test_a_table_that_is_gone_or_changed_is_not_taken(run: Path) -> None:
    write_table(run.parent / "table.csv", ROWS + 1, ["a", "b", "c"], overwrite=True)
    there, why = found(run)
    assert there is None
    assert "has changed since the fit" in why
    (run.parent / "table.csv").unlink()
    assert "not there any more" in found(run)[1]

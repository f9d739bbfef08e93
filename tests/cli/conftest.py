"""One finished run for all tests of the command line that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.commands import fit_arguments
from jkoflow.cli import main
from oracles.quick_training import use_quick_recipe


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with table.csv and the finished run of it, run/; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    assert main(fit_arguments(folder)) == 0
    return folder


@pytest.fixture
def quick(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits of the test train little; the finished run is that of the real training all the same."""
    use_quick_recipe(monkeypatch)

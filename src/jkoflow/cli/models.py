"""Opens the model that a verb was given: that of a finished run, or a model folder by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jkoflow.model import Model, load_model
from jkoflow.runs import RunFolder

__all__ = ["Opened", "open_model", "open_run"]


@dataclass(frozen=True)
class Opened:
    """A model and where it is from.

    Arguments:
        model: The model.
        folder: The folder that the model itself lies in.
        run: The run it is of; None for a model folder by itself.
    """

    model: Model
    folder: Path
    run: RunFolder | None


@contextmanager
def open_run(path: str) -> Iterator[Opened]:
    """Yield a finished run, which nobody can replace meanwhile, with its model, or a model folder.

    Raises:
        RunFolderError: There is none, it is damaged, or the run has not finished.
    """
    if (Path(path) / "config.json").exists():
        yield Opened(load_model(path), Path(path), None)
        return
    with RunFolder.open(path, "read") as run:
        run.require_finished()
        yield Opened(load_model(run.model), run.model, run)


@contextmanager
def open_model(path: str) -> Iterator[Model]:
    """Yield the model of `open_run` alone; errors as there."""
    with open_run(path) as opened:
        yield opened.model

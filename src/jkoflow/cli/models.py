"""Opens the model that a verb was given: that of a finished run, or a model folder by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jkoflow.model import Model, load_model
from jkoflow.runs import RunFolder

__all__ = ["open_model"]


@contextmanager
def open_model(path: str) -> Iterator[Model]:
    """Yield the model of a run, which nobody can replace meanwhile, or of a model folder.

    Raises:
        RunFolderError: There is none, it is damaged, or the run has not finished.
    """
    if (Path(path) / "config.json").exists():
        yield load_model(path)
        return
    with RunFolder.open(path, "read") as run:
        run.require_finished()
        yield load_model(run.model)

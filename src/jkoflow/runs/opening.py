"""Which folders a run may be opened in, so that nothing of the user's is ever taken for a run.

    new: empty     resume: empty or a run     overwrite: empty or a run, however damaged     read: a run

Empty is a folder without visible entries. Source: ours; `jkoflow --help`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from jkoflow.errors import InputError, RunFolderError
from jkoflow.runs import replacement
from jkoflow.storage import open_regular, shown

__all__ = ["AGAIN", "Mode", "require_inputs_stay", "require_mode_fits"]

Mode = Literal["new", "resume", "overwrite", "read"]

AGAIN = "restore it from a copy, or train again with --overwrite"
"""The remedy for a run that is damaged."""


def require_mode_fits(folder: Path, mode: Mode) -> None:
    """Refuse, as a RunFolderError, a folder that a writer in this mode may not use."""
    has_run = (folder / "run.json").exists()
    is_empty = all(entry.name.startswith(".") for entry in folder.iterdir())
    if is_empty or (mode == "resume" and has_run) or (mode == "overwrite" and _is_ours(folder)):
        return
    if mode == "new" and has_run:
        raise RunFolderError(
            f"{shown(folder)}: already holds a run; --resume continues it, --overwrite replaces it"
        )
    if _is_ours(folder):
        raise RunFolderError(f"{shown(folder)}: damaged run folder, run.json is missing; {AGAIN}")
    raise RunFolderError(f"{shown(folder)}: not empty and not a run of jkoflow; choose a new or empty folder")


def require_inputs_stay(folder: Path, inputs: Sequence[str | os.PathLike[str]]) -> None:
    """Refuse, as an InputError, to overwrite a run that one of the new run's inputs lies in."""
    own = [Path(os.path.realpath(entry)) for entry in replacement.run_entries(folder)]
    for name in inputs:
        file = Path(os.path.realpath(name))
        if any(file == entry or entry in file.parents for entry in own):
            raise InputError(
                f"{shown(name)}: --overwrite would delete it with the run in {shown(folder)}; "
                "move it elsewhere first"
            )


def _is_ours(folder: Path) -> bool:
    """Whether what is there was written by this library, even if it is damaged: its first entry says so."""
    for name in ("run.json", "environment.json"):
        with suppress(OSError), open_regular(folder / name) as file:
            start = file.read(64)
            if re.match(rb'\s*\{\s*"format"\s*:\s*"jkoflow/', start):
                return True
    return False

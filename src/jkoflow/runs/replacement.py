"""The run that `--overwrite` replaces is kept until the new one has something to show.

    RUN/*                  → RUN/.jkoflow-setting-aside/*    one rename per entry; undone after a kill
    .jkoflow-setting-aside → .jkoflow-previous               one rename: the folder is the new run's now
    .jkoflow-previous      → .jkoflow-discarded → nothing    at the new run's first checkpoint, or its end

If the new run fails before that, or its start is cut off, the old one is moved back. Only entries that the
library writes are moved or deleted. All is renaming within one folder, so it needs no space and works where
RUN is a mount point; a kill between two renames leaves a state that `recover` knows.
Source: POSIX.1-2017, rename().
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from jkoflow.errors import RunFolderError
from jkoflow.runs.checkpoints import has_checkpoint
from jkoflow.storage import read_json, remove_leftovers, sync_folder

__all__ = [
    "content_folder",
    "discard_previous",
    "discard_run",
    "has_previous",
    "needs_recovery",
    "recover",
    "restore_previous",
    "run_entries",
    "set_aside",
]

_SETTING_ASIDE = ".jkoflow-setting-aside"
_PREVIOUS = ".jkoflow-previous"
_DISCARDED = ".jkoflow-discarded"
_ENTRIES = frozenset(
    {
        "run.json",
        "environment.json",
        "steps.jsonl",
        "checkpoints",
        "model",
        "certificates.json",
        "report.html",
    }
)
_PRODUCTS = re.compile(r"(samples|scores)\.[^.]+")


def run_entries(folder: Path) -> list[Path]:
    """Return what the library has written into the folder, `run.json` last."""
    entries = [
        entry for entry in folder.iterdir() if entry.name in _ENTRIES or _PRODUCTS.fullmatch(entry.name)
    ]
    return sorted(entries, key=lambda entry: (entry.name == "run.json", entry.name))


def content_folder(folder: Path) -> Path:
    """Return where a reader finds the run: the old one, as long as a new one has no checkpoint."""
    return folder / _PREVIOUS if has_previous(folder) and not _has_something(folder) else folder


def has_previous(folder: Path) -> bool:
    """Whether a run that is being replaced is kept."""
    return (folder / _PREVIOUS).is_dir()


def set_aside(folder: Path) -> None:
    """Move the run out of the way of a new one; a new one that has no checkpoint yet is deleted instead."""
    if has_previous(folder):
        discard_run(folder)
        return
    aside = folder / _SETTING_ASIDE
    aside.mkdir()
    for entry in run_entries(folder):
        entry.replace(aside / entry.name)
    aside.replace(folder / _PREVIOUS)
    sync_folder(folder)


def restore_previous(folder: Path) -> None:
    """Delete the new run and move the old one back."""
    discard_run(folder)
    (folder / _PREVIOUS).replace(folder / _SETTING_ASIDE)
    _move_back(folder)


def discard_previous(folder: Path) -> None:
    """Delete the old run: the new one stands on its own."""
    if has_previous(folder):
        _discard(folder, [folder / _PREVIOUS])


def discard_run(folder: Path) -> None:
    """Delete the run in the folder, `run.json` last: cut short, what is left can still be resumed."""
    _discard(folder, run_entries(folder))


def needs_recovery(folder: Path) -> bool:
    """Whether a kill cut one of the functions above short."""
    unsettled = has_previous(folder) and (_has_something(folder) or not (folder / "run.json").exists())
    return unsettled or (folder / _SETTING_ASIDE).is_dir() or (folder / _DISCARDED).is_dir()


def recover(folder: Path) -> None:
    """Finish or undo what a kill cut short; delete temporary files. Only for who holds the folder's lock."""
    for parent in (folder, folder / "checkpoints", folder / "model"):
        remove_leftovers(parent, of_other_places=True)
    shutil.rmtree(folder / _DISCARDED, ignore_errors=True)
    if (folder / _SETTING_ASIDE).is_dir():
        _move_back(folder)
    if has_previous(folder) and not (folder / "run.json").exists():
        restore_previous(folder)
    elif _has_something(folder):
        discard_previous(folder)


def _has_something(folder: Path) -> bool:
    """Whether the run in the folder has come as far as a checkpoint or its end."""
    if has_checkpoint(folder / "checkpoints", 1):
        return True
    try:
        return read_json(folder / "run.json").get("status") == "finished"
    except RunFolderError:
        return False


def _move_back(folder: Path) -> None:
    aside = folder / _SETTING_ASIDE
    for entry in aside.iterdir():
        entry.replace(folder / entry.name)
    aside.rmdir()
    sync_folder(folder)


def _discard(folder: Path, entries: list[Path]) -> None:
    discarded = folder / _DISCARDED
    shutil.rmtree(discarded, ignore_errors=True)
    discarded.mkdir(exist_ok=True)
    for entry in entries:
        entry.replace(discarded / entry.name)
    shutil.rmtree(discarded, ignore_errors=True)

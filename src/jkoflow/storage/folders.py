"""Folders that are whole or absent: several files that belong together appear under one name at once.

    write(folder) = fill(temporary folder beside it) ; fsync ; rename onto folder ; fsync(parent)

A folder that is being replaced is renamed aside first, since POSIX cannot exchange two folders in one call
(POSIX.1-2017, rename(): the new name of a folder must not exist or be empty). A kill between the two renames
leaves the old folder beside, and `recover_folder` puts it back.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jkoflow.errors import RunFolderError
from jkoflow.storage.files import already_there, shown, sync_file, sync_folder, writing
from jkoflow.storage.leftovers import remove_leftovers, temporary_name

__all__ = ["recover_folder", "staged_folder"]


@contextmanager
def staged_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `path` to fill; when the block ends it stands at `path`, whole.

    A folder already there is replaced only with `overwrite`, and only when it holds no name that the new one
    lacks, so that files of the user's are never deleted. If the block raises, `path` is as it was.

    Raises:
        RunFolderError: `path` is already there, holds other files, or cannot be written.
    """
    target = Path(os.path.realpath(path))
    staged = temporary_name(target)
    recover_folder(target)
    remove_leftovers(target.parent)
    try:
        with writing(path):
            _require_replaceable(target, overwrite=overwrite)
            target.parent.mkdir(parents=True, exist_ok=True)
            staged.mkdir()
            yield staged
            _require_no_other_files(target, staged)
            _sync_tree(staged)
            _take_place(staged, target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def recover_folder(path: str | os.PathLike[str]) -> None:
    """Put back the old folder that a kill in the middle of `staged_folder` left beside `path`, if it did."""
    target = Path(os.path.realpath(path))
    aside = _aside_name(target)
    if aside.is_dir() and not os.path.lexists(target):
        with suppress(OSError):  # on a read-only disk the caller says that `path` is missing
            os.replace(aside, target)


def _aside_name(target: Path) -> Path:
    return target.with_name(f".{target.name}.jkoflow-replaced")


def _require_replaceable(target: Path, *, overwrite: bool) -> None:
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise RunFolderError(f"{shown(target)}: expected a folder to write, got a file; choose another name")
    if not overwrite and any(target.iterdir()):
        raise already_there(target)


def _require_no_other_files(target: Path, staged: Path) -> None:
    if not target.is_dir():
        return
    others = sorted({entry.name for entry in target.iterdir()} - {entry.name for entry in staged.iterdir()})
    if others:
        raise RunFolderError(
            f"{shown(target)}: not replaced, it holds {len(others)} other file(s), {shown(others[0])} first; "
            "choose another folder, or move them away"
        )


def _sync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            sync_file(Path(root, name))
        sync_folder(Path(root))


def _take_place(staged: Path, target: Path) -> None:
    aside = _aside_name(target)
    if target.is_dir():
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(target, aside)
    try:
        os.replace(staged, target)
    except BaseException:
        recover_folder(target)
        raise
    sync_folder(target.parent)
    shutil.rmtree(aside, ignore_errors=True)

"""Laws of a folder that is whole or absent."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from jkoflow.errors import RunFolderError
from jkoflow.storage import recover_folder, staged_folder
from kill_points import kill_points

OLD = {"config.json": b"old", "model.safetensors": b"old" * 50}
NEW = {"config.json": b"new", "model.safetensors": b"new" * 50}


def fill(path: Path, content: dict[str, bytes]) -> None:
    with staged_folder(path, overwrite=True) as staged:
        for name, data in content.items():
            (staged / name).write_bytes(data)


def content(path: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in path.iterdir()}


def test_folder_appears_whole_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "above" / "model"
    fill(path, OLD)
    assert content(path) == OLD
    fill(path, NEW)
    assert content(path) == NEW
    assert [entry.name for entry in path.parent.iterdir()] == ["model"]


def test_block_that_raises_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "model"
    fill(path, OLD)
    with pytest.raises(KeyboardInterrupt), staged_folder(path, overwrite=True) as staged:
        (staged / "config.json").write_bytes(b"new")
        raise KeyboardInterrupt
    assert content(path) == OLD
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model"
    fill(path, OLD)
    for call in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
            with pytest.raises(RunFolderError, match=r"model: no space left on device"):
                fill(path, NEW)
        assert content(path) == OLD


def test_failure_of_the_second_rename_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    fill(path, OLD)
    plain, calls = os.replace, []

    def replace(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError(errno.EIO, "input/output error")
        plain(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(RunFolderError, match="input/output error"):
        fill(path, NEW)
    assert content(path) == OLD


def test_existing_folder_is_refused_without_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "model"
    fill(path, OLD)
    with pytest.raises(RunFolderError, match="already there"), staged_folder(path):
        pass
    assert content(path) == OLD


def test_empty_folder_is_taken_without_overwrite(tmp_path: Path) -> None:
    with staged_folder(tmp_path) as staged:
        (staged / "a").write_bytes(b"a")
    assert content(tmp_path) == {"a": b"a"}


def test_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "thesis"
    fill(path, OLD)
    (path / "chapter_1.tex").write_bytes(b"ten years")
    with pytest.raises(RunFolderError, match=r"chapter_1\.tex"):
        fill(path, NEW)
    assert content(path) == {**OLD, "chapter_1.tex": b"ten years"}


def test_file_is_never_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"a file")
    with pytest.raises(RunFolderError, match="got a file"):
        fill(tmp_path / "model", NEW)
    assert (tmp_path / "model").read_bytes() == b"a file"


def test_kill_at_any_point_loses_neither_folder(tmp_path: Path) -> None:
    path = tmp_path / "model"
    seen = []
    fill(path, OLD)
    for _ in kill_points(lambda: fill(path, NEW)):
        recover_folder(path)
        seen.append(content(path))
        fill(path, OLD)
    assert OLD in seen
    assert NEW in seen
    assert all(found in (OLD, NEW) for found in seen)


def test_folder_cut_short_is_there_again_for_the_next_writer(tmp_path: Path) -> None:
    fill(tmp_path / "model", OLD)
    (tmp_path / "model").rename(tmp_path / ".model.jkoflow-replaced")
    with pytest.raises(RunFolderError, match="already there"), staged_folder(tmp_path / "model"):
        pass
    assert content(tmp_path / "model") == OLD


def test_recovery_touches_nothing_where_nothing_was_cut_short(tmp_path: Path) -> None:
    fill(tmp_path / "model", OLD)
    recover_folder(tmp_path / "model")
    recover_folder(tmp_path / "other")
    assert content(tmp_path / "model") == OLD
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]

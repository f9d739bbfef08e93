"""Laws of the lock: one writer or many readers, never a stale one, no trace where nothing came of it."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jkoflow.errors import RunFolderError
from jkoflow.storage import FolderLock, lock


@contextmanager
def other_process_holding(folder: Path, *, shared: bool = False) -> Iterator[int]:
    """A process that holds the lock until the block ends, when it is killed."""
    ready, told = os.pipe()
    process = os.fork()
    if process == 0:
        FolderLock(folder, shared=shared)
        os.write(told, b"!")
        signal.pause()
    assert os.read(ready, 1) == b"!"
    try:
        yield process
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(ready)
        os.close(told)


@pytest.fixture(params=["flock", "marker: no fcntl", "marker: no locks on this disk"])
def mechanism(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    if request.param == "marker: no fcntl":
        monkeypatch.setattr(lock, "HAS_FLOCK", False)
    elif request.param != "flock":
        monkeypatch.setattr(lock, "flock", refuse)
    return request.param


def test_writer_excludes_writer_until_it_ends(tmp_path: Path, mechanism: str) -> None:
    with FolderLock(tmp_path):
        with pytest.raises(RunFolderError, match=r"locked, .* is using it; wait") as caught:
            FolderLock(tmp_path)
        assert str(tmp_path) in str(caught.value)
        assert str(caught.value).isprintable()
    FolderLock(tmp_path).release()


def test_writer_excludes_readers(tmp_path: Path, mechanism: str) -> None:
    with FolderLock(tmp_path), pytest.raises(RunFolderError, match="locked"):
        FolderLock(tmp_path, shared=True)
    FolderLock(tmp_path, shared=True).release()


def test_readers_exclude_writers_and_not_each_other(tmp_path: Path) -> None:
    FolderLock(tmp_path).release()
    with FolderLock(tmp_path, shared=True) as first:
        with (
            FolderLock(tmp_path, shared=True),
            pytest.raises(RunFolderError, match="another process is using"),
        ):
            FolderLock(tmp_path)
        first.release()
        FolderLock(tmp_path).release()


def test_other_process_is_named_and_its_kill_frees_the_folder(tmp_path: Path) -> None:
    with other_process_holding(tmp_path) as process:
        for shared in (False, True):
            with pytest.raises(RunFolderError, match=f"locked, process {process} is using it"):
                FolderLock(tmp_path, shared=shared)
    FolderLock(tmp_path).release()


def test_reader_in_another_process_excludes_writers(tmp_path: Path) -> None:
    FolderLock(tmp_path).release()
    with other_process_holding(tmp_path, shared=True):
        FolderLock(tmp_path, shared=True).release()
        with pytest.raises(RunFolderError, match="locked, another process is using it"):
            FolderLock(tmp_path)


def test_killed_writer_leaves_a_marker_that_the_message_says_to_delete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "HAS_FLOCK", False)
    with other_process_holding(tmp_path):
        pass
    with pytest.raises(RunFolderError, match=r"if it was killed, delete .*\.lock\.held"):
        FolderLock(tmp_path)
    (tmp_path / ".lock.held").unlink()
    FolderLock(tmp_path).release()


def test_reader_creates_nothing(tmp_path: Path, mechanism: str) -> None:
    FolderLock(tmp_path, shared=True).release()
    assert list(tmp_path.iterdir()) == []


def test_untouched_leaves_no_trace(tmp_path: Path, mechanism: str) -> None:
    FolderLock(tmp_path / "a" / "b").release(untouched=True)
    assert list(tmp_path.iterdir()) == []


def test_untouched_removes_only_what_the_lock_made(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    FolderLock(tmp_path / "mine").release(untouched=True)
    assert list((tmp_path / "mine").iterdir()) == []
    FolderLock(tmp_path / "mine").release()
    FolderLock(tmp_path / "mine").release(untouched=True)
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == [".lock"]
    held = FolderLock(tmp_path / "new")
    (tmp_path / "new" / "notes.txt").write_text("kept")
    held.release(untouched=True)
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["notes.txt"]


def test_refused_lock_removes_nothing(tmp_path: Path) -> None:
    with FolderLock(tmp_path):
        with pytest.raises(RunFolderError, match="locked"):
            FolderLock(tmp_path)
        with pytest.raises(RunFolderError, match="locked"):
            FolderLock(tmp_path)


def test_lock_file_removed_while_it_is_being_taken_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = lock.flock, []

    def flock(descriptor: int, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            (tmp_path / ".lock").unlink()
        plain(descriptor, how)

    monkeypatch.setattr(lock, "flock", flock)
    with FolderLock(tmp_path):
        monkeypatch.setattr(lock, "flock", plain)
        with pytest.raises(RunFolderError, match="locked"):
            FolderLock(tmp_path)


def test_folder_that_is_a_file_or_cannot_be_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="expected a folder, got a file"):
        FolderLock(tmp_path / "file")
    with pytest.raises(RunFolderError, match="cannot be written"):
        FolderLock(tmp_path / "file" / "below")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(RunFolderError, match="no space left on device"):
        FolderLock(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_second_release_does_nothing(tmp_path: Path) -> None:
    held = FolderLock(tmp_path)
    held.release()
    with FolderLock(tmp_path):
        held.release()
        with pytest.raises(RunFolderError, match="locked"):
            FolderLock(tmp_path)

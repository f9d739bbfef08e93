"""Laws of a file that is whole or absent: on a full disk, after a kill, beside what is already there."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jkoflow.errors import InputError, RunFolderError
from jkoflow.storage import staged_file, validate_new_output, write_bytes_atomic
from kill_points import kill_points, run_in_fork

OLD, NEW = b"old" * 100, b"new" * 1000


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def refuse(code: int, *, at: int = 1) -> Callable[..., object]:
    """A system call that refuses from its `at`-th use on."""
    calls = 0

    def call(*arguments: object, **_: object) -> object:
        nonlocal calls
        calls += 1
        if calls >= at:
            raise OSError(code, os.strerror(code))
        return len(arguments[1])

    return call


def test_write_then_read(tmp_path: Path) -> None:
    write_bytes_atomic(tmp_path / "a.bin", OLD)
    write_bytes_atomic(tmp_path / "a.bin", NEW)
    assert (tmp_path / "a.bin").read_bytes() == NEW
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("data", [b"", b"\n", b"\r\n\x1a\x00" * 7])
def test_bytes_are_kept_as_they_are(tmp_path: Path, data: bytes) -> None:
    write_bytes_atomic(tmp_path / "a.bin", data)
    assert (tmp_path / "a.bin").read_bytes() == data


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    file = tmp_path / "a.bin"
    write_bytes_atomic(file, OLD)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse(code))
        with pytest.raises(RunFolderError, match="no space left on device") as caught:
            write_bytes_atomic(file, NEW)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == OLD
    assert names(tmp_path) == ["a.bin"]


def test_full_disk_on_opening_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.bin"
    write_bytes_atomic(file, OLD)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse(errno.ENOSPC))
        with pytest.raises(RunFolderError, match="no space left on device"):
            write_bytes_atomic(file, NEW)
    assert file.read_bytes() == OLD


def test_disk_that_fills_up_in_the_middle_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = os.write

    def write(descriptor: int, data: bytes) -> int:
        if len(data) <= 10:
            raise OSError(errno.ENOSPC, "full")
        return plain(descriptor, bytes(data)[:10])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(RunFolderError, match="no space left on device"):
            write_bytes_atomic(tmp_path / "a.bin", OLD)
    assert names(tmp_path) == []


def test_file_is_on_the_disk_before_its_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    plain_sync, plain_replace = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        order.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        plain_sync(descriptor)

    def replace(source: Path, target: Path) -> None:
        order.append("rename")
        plain_replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    write_bytes_atomic(tmp_path / "a.bin", NEW)
    assert order == ["file", "rename", "folder"]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: plain(descriptor, bytes(data)[:7]))
        write_bytes_atomic(tmp_path / "a.bin", NEW)
    assert (tmp_path / "a.bin").read_bytes() == NEW


def test_refusal_by_the_system_itself_keeps_the_old_file(tmp_path: Path) -> None:
    """A limit on the size of files, with which the kernel takes a part of the write and refuses the rest."""
    file = tmp_path / "a.bin"
    write_bytes_atomic(file, OLD)

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(RunFolderError, match="cannot be written"):
            write_bytes_atomic(file, NEW)

    assert run_in_fork(work) == 0
    assert file.read_bytes() == OLD
    assert names(tmp_path) == ["a.bin"]


def test_kill_at_any_point_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    seen = set()
    write_bytes_atomic(file, OLD)
    for _ in kill_points(lambda: write_bytes_atomic(file, NEW)):
        seen.add(file.read_bytes())
        write_bytes_atomic(file, OLD)
    assert seen == {OLD, NEW}
    assert file.read_bytes() == NEW


def test_kill_at_a_random_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    versions = [bytes([number]) * 200_000 for number in range(5)]
    write_bytes_atomic(file, versions[0])
    for pause in (0.003, 0.01, 0.02, 0.03, 0.05):
        process = os.fork()
        if process == 0:
            while True:
                for version in versions:
                    write_bytes_atomic(file, version)
        time.sleep(pause)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        assert file.read_bytes() in versions


def test_interrupted_block_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(OLD)
    with pytest.raises(KeyboardInterrupt), staged_file(file) as staged:
        staged.write_bytes(NEW)
        raise KeyboardInterrupt
    assert file.read_bytes() == OLD
    assert names(tmp_path) == ["a.csv"]


def test_staged_name_has_the_suffix_that_writers_look_at(tmp_path: Path) -> None:
    with staged_file(tmp_path / "a.parquet") as staged:
        assert (staged.suffix, staged.parent) == (".parquet", tmp_path)
        staged.write_bytes(NEW)
    assert names(tmp_path) == ["a.parquet"]


def test_existing_file_is_refused_without_overwrite(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    write_bytes_atomic(file, OLD, overwrite=False)
    with pytest.raises(RunFolderError, match=r"already there.*--overwrite"):
        write_bytes_atomic(file, NEW, overwrite=False)
    assert file.read_bytes() == OLD


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_file_that_appears_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    file = tmp_path / "a.bin"
    if not links:
        monkeypatch.setattr(os, "link", refuse(errno.EOPNOTSUPP))
    with pytest.raises(RunFolderError, match="already there"), staged_file(file, overwrite=False) as staged:
        staged.write_bytes(NEW)
        file.write_bytes(OLD)
    assert file.read_bytes() == OLD
    assert names(tmp_path) == ["a.bin"]


def test_without_hard_links_a_new_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    write_bytes_atomic(tmp_path / "a.bin", NEW, overwrite=False)
    assert (tmp_path / "a.bin").read_bytes() == NEW


def test_permissions_of_the_old_file_stay(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(OLD)
    file.chmod(0o640)
    write_bytes_atomic(file, NEW)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    file, link = tmp_path / "there" / "a.bin", tmp_path / "link.bin"
    file.write_bytes(OLD)
    link.symlink_to(file)
    write_bytes_atomic(link, NEW)
    assert link.is_symlink()
    assert file.read_bytes() == NEW


@pytest.mark.parametrize("overwrite", [True, False])
def test_validation_changes_nothing(tmp_path: Path, overwrite: bool) -> None:
    assert validate_new_output(tmp_path / "a.csv", overwrite=overwrite) == tmp_path / "a.csv"
    assert names(tmp_path) == []


def test_validation_refuses_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (
        (tmp_path, "got a folder"),
        (tmp_path / "pipe", "a device or a pipe"),
        ("/dev/null", "a device or a pipe"),
        (tmp_path / "missing" / "a.csv", "does not exist"),
    ):
        with pytest.raises(InputError, match=reason) as caught:
            validate_new_output(name, overwrite=True)
        assert "\n" not in str(caught.value)


def test_validation_refuses_an_existing_file_unless_it_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(OLD)
    with pytest.raises(RunFolderError, match="already there"):
        validate_new_output(tmp_path / "a.csv", overwrite=False)
    assert validate_new_output(tmp_path / "a.csv", overwrite=True) == tmp_path / "a.csv"


def test_folder_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(RunFolderError, match="permission denied"):
        validate_new_output(tmp_path / "a.csv", overwrite=False)


@pytest.mark.parametrize("name", ["two\nlines.csv", os.fsdecode(b"\xff\xfe.csv"), "x" * 300])
def test_message_is_one_printable_line_whatever_the_name(tmp_path: Path, name: str) -> None:
    with pytest.raises((InputError, RunFolderError)) as caught:
        validate_new_output(tmp_path / "missing" / name, overwrite=False)
    assert str(caught.value).isprintable()

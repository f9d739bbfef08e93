"""What killed processes leave half-written goes at the next write; what a living one writes stays."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jkoflow.storage import leftovers, staged_file, staged_folder, write_bytes_atomic
from jkoflow.storage.leftovers import TEMPORARY_PREFIX, remove_leftovers, temporary_name

WRITES = """
import sys
from pathlib import Path
from jkoflow.storage import staged_file, staged_folder

stage = {"file": staged_file, "folder": staged_folder}[sys.argv[1]]
with stage(sys.argv[2]) as staged:
    content = staged / "config.json" if staged.is_dir() else staged
    content.write_text("half")
    print("writing", flush=True)
    sys.stdin.read()
    content.write_text("whole")
"""
"""Stays in the middle of a write until its input is closed."""

KINDS = {"file": "out.csv", "folder": "model"}


def begin_to_write(kind: str, folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES, kind, str(folder / KINDS[kind])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def half_written(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name.startswith(TEMPORARY_PREFIX))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reaped", [True, False])
def test_next_write_clears_what_killed_ones_left_and_not_what_living_ones_write(
    kind: str, reaped: bool, tmp_path: Path
) -> None:
    killed, living = begin_to_write(kind, tmp_path), begin_to_write(kind, tmp_path)
    assert len(half_written(tmp_path)) == 2
    killed.kill()
    os.waitid(os.P_PID, killed.pid, os.WEXITED | (0 if reaped else os.WNOWAIT))
    write_bytes_atomic(tmp_path / "other.json", b"{}")
    (left,) = half_written(tmp_path)
    assert f"-{living.pid}-" in left
    living.communicate("", timeout=60)
    assert living.returncode == 0
    content = tmp_path / KINDS[kind]
    assert (content / "config.json" if kind == "folder" else content).read_text() == "whole"
    assert half_written(tmp_path) == []
    killed.communicate(timeout=60)


def test_own_writes_do_not_clear_each_other(tmp_path: Path) -> None:
    with staged_file(tmp_path / "a") as first, staged_folder(tmp_path / "b") as second:
        first.write_text("a")
        (second / "c").write_text("c")
        write_bytes_atomic(tmp_path / "d", b"d")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "b", "d"]
    assert (tmp_path / "b" / "c").read_text() == "c"


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(timeout=60)
    return process.pid


def renamed(path: Path, number: int, value: object) -> Path:
    """The same name with one of its parts changed: place 0, process 1, birth 2."""
    parts = path.name.removeprefix(TEMPORARY_PREFIX).split("-")
    parts[number] = str(value)
    return path.with_name(TEMPORARY_PREFIX + "-".join(parts))


NAMES: dict[str, tuple[Callable[[Path], Path], bool, bool]] = {
    "living": (lambda own: own, True, True),
    "dead": (lambda own: renamed(own, 1, dead_process()), False, False),
    "number taken by another": (lambda own: renamed(own, 2, 1), sys.platform != "linux", False),
    "no such number": (lambda own: renamed(own, 1, 10**30), False, False),
    "other machine": (lambda own: renamed(own, 0, "0" * 8), True, False),
    "dead on another machine": (
        lambda own: renamed(renamed(own, 0, "0" * 8), 1, dead_process()),
        True,
        False,
    ),
    "of an earlier version": (lambda own: own.with_name(f"{TEMPORARY_PREFIX}17-0123abcd.json"), True, False),
    "the user's": (lambda own: own.with_name(".jkoflow-tmp"), True, True),
}
"""A name by the own one, whether it stays, and whether it stays under the lock of a run."""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_folder", [False, True])
@pytest.mark.parametrize("locked", [False, True])
def test_only_what_is_nobodys_goes(name: str, is_folder: bool, locked: bool, tmp_path: Path) -> None:
    make, stays, stays_when_locked = NAMES[name]
    path = make(temporary_name(tmp_path / "out.json"))
    if is_folder:
        path.mkdir()
        (path / "inside").write_text("")
    else:
        path.write_text("")
    remove_leftovers(tmp_path, of_other_places=locked)
    assert path.exists() == (stays_when_locked if locked else stays)


def test_link_goes_and_what_it_points_to_stays(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("ten years")
    (tmp_path / "here").mkdir()
    link = renamed(temporary_name(tmp_path / "here" / "x"), 1, dead_process())
    link.symlink_to(tmp_path / "thesis")
    remove_leftovers(tmp_path / "here")
    assert not link.is_symlink()
    assert (tmp_path / "thesis" / "chapter").read_text() == "ten years"


def test_folder_that_is_not_there_or_not_ours_is_no_fault(tmp_path: Path) -> None:
    remove_leftovers(tmp_path / "missing")
    (tmp_path / "file").write_text("")
    remove_leftovers(tmp_path / "file")


def test_process_of_another_user_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    monkeypatch.setattr(leftovers, "_text", lambda path: "")  # as where /proc hides others' processes
    assert leftovers._is_alive(os.getpid(), 5)


def test_names_are_new_each_time_and_tell_the_process(tmp_path: Path) -> None:
    first, second = temporary_name(tmp_path / "a.csv"), temporary_name(tmp_path / "a.csv")
    assert first != second
    assert first.suffix == ".csv"
    assert f"-{os.getpid()}-" in first.name

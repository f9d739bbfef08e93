"""Every state a folder can be found in, in every mode: used, or refused in one line, nothing changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jkoflow.errors import InputError, RunFolderError
from jkoflow.runs import Mode, RunFolder
from runs.fake_fit import contents, fit


def missing(folder: Path) -> None:
    pass


def empty(folder: Path) -> None:
    folder.mkdir()


def hidden_files_only(folder: Path) -> None:
    folder.mkdir()
    (folder / ".gitkeep").write_text("")


def foreign(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.tex").write_text("ten years")


def foreign_run(folder: Path) -> None:
    folder.mkdir()
    (folder / "run.json").write_text('{"tool": "another"}')


def a_file(folder: Path) -> None:
    folder.write_text("")


def finished(folder: Path) -> None:
    fit(folder, "new", seed=1)


def without_run_json(folder: Path) -> None:
    finished(folder)
    (folder / "run.json").unlink()


def torn_run_json(folder: Path) -> None:
    finished(folder)
    data = (folder / "run.json").read_bytes()
    (folder / "run.json").write_bytes(data[: len(data) // 2])


def empty_run_json(folder: Path) -> None:
    finished(folder)
    (folder / "run.json").write_bytes(b"")


def of_a_later_format(folder: Path) -> None:
    finished(folder)
    text = (folder / "run.json").read_text()
    (folder / "run.json").write_text(text.replace("jkoflow/1", "jkoflow/2"))


HELD, NO_RUN, TORN = "already holds a run; --resume", "not empty and not a run", "damaged or half-written"
NEITHER = "run.json is missing"
STATES: list[tuple[Callable[[Path], None], dict[Mode, str | None]]] = [
    (missing, {"new": None, "resume": None, "overwrite": None, "read": "no such run folder"}),
    (empty, {"new": None, "resume": None, "overwrite": None, "read": NEITHER}),
    (hidden_files_only, {"new": None, "resume": None, "overwrite": None, "read": NEITHER}),
    (foreign, {"new": NO_RUN, "resume": NO_RUN, "overwrite": NO_RUN, "read": NEITHER}),
    (
        foreign_run,
        {"new": HELD, "resume": "not a file of format", "overwrite": NO_RUN, "read": "not a file of"},
    ),
    (a_file, {"new": "got a file", "resume": "got a file", "overwrite": "got a file", "read": "no such run"}),
    (finished, {"new": HELD, "resume": None, "overwrite": None, "read": None}),
    (without_run_json, {"new": NEITHER, "resume": NEITHER, "overwrite": None, "read": NEITHER}),
    (torn_run_json, {"new": HELD, "resume": TORN, "overwrite": None, "read": TORN}),
    (empty_run_json, {"new": HELD, "resume": TORN, "overwrite": None, "read": TORN}),
    (of_a_later_format, {"new": HELD, "resume": "'jkoflow/2'", "overwrite": None, "read": "'jkoflow/2'"}),
]
CASES = [(state, mode, reason) for state, modes in STATES for mode, reason in modes.items()]


def everything(folder: Path) -> object:
    return contents(folder) if folder.is_dir() else folder.exists()


@pytest.mark.parametrize(
    ("state", "mode", "reason"), CASES, ids=[f"{mode} {state.__name__}" for state, mode, _ in CASES]
)
def test_folder_is_used_or_refused_and_stays_as_it_was(
    tmp_path: Path, state: Callable[[Path], None], mode: Mode, reason: str | None
) -> None:
    folder = tmp_path / "run"
    state(folder)
    before = everything(folder)
    if reason is None:
        RunFolder.open(folder, mode).close()
    else:
        with pytest.raises(RunFolderError, match=reason) as caught:
            RunFolder.open(folder, mode)
        assert str(caught.value).isprintable()
        assert str(folder) in str(caught.value)
        assert caught.value.exit_status == 4
    assert everything(folder) == before


@pytest.mark.parametrize("state", [without_run_json, torn_run_json, empty_run_json, of_a_later_format])
def test_damaged_run_can_be_overwritten(tmp_path: Path, state: Callable[[Path], None]) -> None:
    state(tmp_path / "run")
    fit(tmp_path / "run", "overwrite", seed=2)
    fit(tmp_path / "fresh", "new", seed=2)
    assert contents(tmp_path / "run") == contents(tmp_path / "fresh")


def test_refused_folder_does_not_get_a_lock_file(tmp_path: Path) -> None:
    foreign(tmp_path / "run")
    for mode in ("new", "resume", "overwrite", "read"):
        with pytest.raises(RunFolderError):
            RunFolder.open(tmp_path / "run", mode)
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_is_new_tells_whether_to_start(tmp_path: Path) -> None:
    fit(tmp_path / "run", "new", seed=1)
    for folder, mode, expected in (("a", "new", True), ("b", "resume", True), ("run", "resume", False)):
        with RunFolder.open(tmp_path / folder, mode) as run:
            assert run.is_new == expected
    with RunFolder.open(tmp_path / "run", "overwrite") as run:
        assert run.is_new


def test_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mode: expected one of new, resume, overwrite, read, got 'append'"):
        RunFolder.open(tmp_path / "run", "append")
    assert list(tmp_path.iterdir()) == []


def test_link_to_a_run_is_followed(tmp_path: Path) -> None:
    fit(tmp_path / "run", "new", seed=1)
    (tmp_path / "link").symlink_to(tmp_path / "run")
    fit(tmp_path / "link", "overwrite", seed=2)
    assert (tmp_path / "link").is_symlink()
    with RunFolder.open(tmp_path / "run", "read") as run:
        assert run.description["seed"] == 2

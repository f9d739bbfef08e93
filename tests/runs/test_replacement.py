"""Overwriting loses nothing: the old run is there until the new one has a checkpoint, whatever happens."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from jkoflow.errors import InputError, NumericalError, RunFolderError
from jkoflow.runs import Mode, RunFolder, folder, replacement
from kill_points import kill_points, unsynced
from runs.fake_fit import contents, describe, fit, train

OLD, NEW = 1, 2


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", unsynced)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A finished old run to overwrite, a spare copy of it, and the new one as it is in a fresh folder."""
    fit(tmp_path / "spare", "new", seed=OLD)
    for name in ("samples.csv", "scores.npy", "report.html", "certificates.json"):
        (tmp_path / "spare" / name).write_text(f"old {name}")
    (tmp_path / "spare" / "notes.txt").write_text("the user's own")
    shutil.copytree(tmp_path / "spare", tmp_path / "run")
    fit(tmp_path / "fresh", "new", seed=NEW)
    (tmp_path / "fresh" / "notes.txt").write_text("the user's own")
    return tmp_path / "run", tmp_path / "spare", tmp_path / "fresh"


def renew(run: Path, spare: Path) -> None:
    shutil.rmtree(run)
    shutil.copytree(spare, run)


def test_new_run_replaces_the_old_one_and_nothing_else(runs: tuple[Path, Path, Path]) -> None:
    run, _, fresh = runs
    fit(run, "overwrite", seed=NEW)
    assert contents(run) == contents(fresh)


def require_nothing_lost(run: Path, spare: Path) -> bool:
    """Whether a reader sees the old run, which has to be whole; if not, the new one has a checkpoint."""
    with RunFolder.open(run, "read") as reader:
        if reader.description["seed"] == NEW:
            assert len(reader.read_checkpoints()) > 0
            return False
        reader.require_finished()
        expected = contents(spare)
        expected.pop("notes.txt")
        found = contents(reader.content)
        assert expected.items() <= found.items()
        return True


def finish_new(run: Path) -> None:
    with RunFolder.open(run, "resume") as waiting:
        seed = waiting.description["seed"]
    fit(run, "resume" if seed == NEW else "overwrite", seed=NEW)


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_kill_at_any_point_loses_nothing_and_the_new_run_can_go_on(
    runs: tuple[Path, Path, Path], every: int
) -> None:
    run, spare, fresh = runs
    seen = set()
    for _ in kill_points(lambda: fit(run, "overwrite", seed=NEW), every=every):
        seen.add(require_nothing_lost(run, spare))
        assert (run / "notes.txt").read_text() == "the user's own"
        finish_new(run)
        assert contents(run) == contents(fresh)
        renew(run, spare)
    assert seen == {True, False}


@pytest.mark.slow
def test_kill_while_recovering_from_a_kill_loses_nothing(runs: tuple[Path, Path, Path]) -> None:
    run, spare, fresh = runs
    killed = run.with_name("killed")

    def begin(blocks: int) -> None:
        with RunFolder.open(run, "overwrite") as again:
            again.start(describe(NEW))
            for block in range(1, blocks + 1):
                train(again, NEW, block)

    for _ in kill_points(lambda: begin(1), every=4):
        shutil.copytree(run, killed)
        for _ in kill_points(lambda: begin(0), every=4):
            require_nothing_lost(run, spare)
            finish_new(run)
            assert contents(run) == contents(fresh)
            renew(run, killed)
        shutil.rmtree(killed)
        renew(run, spare)


def test_full_disk_at_any_point_loses_nothing(
    runs: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, spare, fresh = runs
    at, reached = 0, True
    while reached:
        at, calls = at + 1, 0

        def write(*arguments: object, plain: object = os.write, limit: int = at) -> int:
            nonlocal calls
            calls += 1
            if calls >= limit:
                raise OSError(errno.ENOSPC, "full")
            return plain(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            try:
                fit(run, "overwrite", seed=NEW)
            except RunFolderError as error:
                assert "no space left on device" in str(error)
            reached = calls >= at
        if reached:
            require_nothing_lost(run, spare)
            finish_new(run)
        assert contents(run) == contents(fresh)
        renew(run, spare)
    assert at > 8


@pytest.mark.parametrize("mode", ["new", "overwrite"])
def test_kill_while_a_start_that_failed_is_taken_back_loses_nothing(
    runs: tuple[Path, Path, Path], mode: Mode
) -> None:
    run, spare, fresh = runs
    if mode == "new":
        shutil.rmtree(run)

    def start_on_a_full_disk() -> None:
        def refuse() -> NoReturn:
            raise OSError(errno.ENOSPC, "full")

        folder.environment = refuse  # the second file that a start writes
        with pytest.raises(RunFolderError, match="no space left"):
            fit(run, mode, seed=NEW)

    for _ in kill_points(start_on_a_full_disk, every=2):
        if mode == "new":
            fit(run, "resume", seed=NEW)
            assert contents(run).items() <= contents(fresh).items()
            shutil.rmtree(run)
        else:
            assert require_nothing_lost(run, spare)
            finish_new(run)
            assert contents(run) == contents(fresh)
            renew(run, spare)
    assert not run.exists() if mode == "new" else contents(run) == contents(spare)


def test_kill_while_a_run_is_deleted_leaves_one_to_resume_or_none(tmp_path: Path) -> None:
    run = tmp_path / "run"
    points = 0
    fit(tmp_path / "fresh", "new", seed=NEW)

    def begin() -> None:
        with RunFolder.open(run, "new") as new:
            new.start(describe(NEW))

    begin()
    for _ in kill_points(lambda: replacement.discard_run(run)):
        points += 1
        fit(run, "resume", seed=NEW)
        assert contents(run) == contents(tmp_path / "fresh")
        shutil.rmtree(run)
        begin()
    assert points > 2


def stop(run: Path, error: BaseException, *, blocks: int) -> None:
    with pytest.raises(type(error)), RunFolder.open(run, "overwrite") as new:
        new.start(describe(NEW))
        for block in range(1, blocks + 1):
            train(new, NEW, block)
        raise error


def test_failure_before_the_first_checkpoint_puts_the_old_run_back(runs: tuple[Path, Path, Path]) -> None:
    run, spare, _ = runs
    stop(run, NumericalError("diverged", block=1, remedy="smaller gamma"), blocks=0)
    assert contents(run) == contents(spare)


def test_failure_after_the_first_checkpoint_keeps_the_new_run(runs: tuple[Path, Path, Path]) -> None:
    run, _, fresh = runs
    stop(run, NumericalError("diverged", block=2, remedy="smaller gamma"), blocks=1)
    fit(run, "resume", seed=NEW)
    assert contents(run) == contents(fresh)


def test_interruption_before_the_first_checkpoint_keeps_both(runs: tuple[Path, Path, Path]) -> None:
    run, spare, fresh = runs
    stop(run, KeyboardInterrupt(), blocks=0)
    assert require_nothing_lost(run, spare)
    fit(run, "resume", seed=NEW)
    assert contents(run) == contents(fresh)


def test_overwriting_an_interrupted_overwrite_still_keeps_the_old_run(
    runs: tuple[Path, Path, Path],
) -> None:
    run, spare, _ = runs
    for _ in range(3):
        stop(run, KeyboardInterrupt(), blocks=0)
        assert require_nothing_lost(run, spare)
    stop(run, NumericalError("diverged", remedy="smaller gamma"), blocks=0)
    assert contents(run) == contents(spare)


@pytest.mark.parametrize("blocks", [0, 1])
def test_old_run_goes_at_the_first_checkpoint_or_the_end(runs: tuple[Path, Path, Path], blocks: int) -> None:
    run, _, _ = runs
    with RunFolder.open(run, "overwrite") as new:
        new.start(describe(NEW))
        assert (run / ".jkoflow-previous" / "run.json").exists()
        if blocks:
            train(new, NEW, 1)
        else:
            new.finish()
        assert not (run / ".jkoflow-previous").exists()


def test_failure_after_a_checkpoint_keeps_the_new_run_even_if_the_old_one_is_still_there(
    runs: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, fresh = runs
    with monkeypatch.context() as patch:
        patch.setattr(replacement, "discard_previous", lambda _: None)
        stop(run, NumericalError("diverged", block=2, remedy="smaller gamma"), blocks=1)
    fit(run, "resume", seed=NEW)
    assert contents(run) == contents(fresh)


def test_run_that_finishes_without_a_checkpoint_replaces_too(runs: tuple[Path, Path, Path]) -> None:
    run, _, _ = runs
    with RunFolder.open(run, "overwrite") as new:
        new.start(describe(NEW))
        new.finish()
    with RunFolder.open(run, "read") as reader:
        assert (reader.description["seed"], reader.status) == (NEW, "finished")
    assert {name for name in contents(run) if name.startswith(".")} == set()


@pytest.mark.parametrize("blocks", [0, 1])
def test_old_run_whose_deletion_was_cut_off_is_out_of_sight_and_goes_next_time(
    runs: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    run, _, _ = runs
    with monkeypatch.context() as patch:
        patch.setattr(replacement, "discard_previous", lambda _: None)
        with RunFolder.open(run, "overwrite") as new:
            new.start(describe(NEW))
            for block in range(1, blocks + 1):
                train(new, NEW, block)
            if blocks == 0:
                new.finish()
    assert (run / ".jkoflow-previous" / "run.json").exists()
    with RunFolder.open(run, "read") as reader:
        assert (reader.content, reader.description["seed"]) == (run, NEW)
    assert not (run / ".jkoflow-previous").exists()


def test_table_inside_the_run_to_be_overwritten_is_refused(runs: tuple[Path, Path, Path]) -> None:
    run, spare, _ = runs
    for name in ("samples.csv", "checkpoints/block_0001.json"):
        with pytest.raises(InputError, match="--overwrite would delete it"):
            RunFolder.open(run, "overwrite", inputs=[run / name])
    link = run.parent / "link.csv"
    link.symlink_to(run / "samples.csv")
    with pytest.raises(InputError, match="--overwrite would delete it"):
        RunFolder.open(run, "overwrite", inputs=[link])
    RunFolder.open(run, "overwrite", inputs=[run / "notes.txt", run.parent / "table.csv"]).close()
    assert contents(run) == contents(spare)

"""The life of a run: started, stopped, gone on with, finished, and refused in one line where it has to be."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from jkoflow.errors import InputError, NumericalError, RunFolderError
from jkoflow.runs import Mode, RunFolder
from kill_points import kill_points, run_in_fork, unsynced
from runs.fake_fit import BLOCKS, contents, describe, fit, save, train


def status_of(folder: Path) -> str | None:
    with RunFolder.open(folder, "read") as run:
        return run.status


def filled_up_at(patch: pytest.MonkeyPatch, at: int) -> Callable[[], bool]:
    """Let the disk be full from the `at`-th write or sync on; return whether it has got that far."""
    calls = 0

    def full(plain: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            nonlocal calls
            calls += 1
            if calls >= at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return plain(*arguments)

        return call

    patch.setattr(os, "write", full(os.write))
    patch.setattr(os, "fsync", full(os.fsync))
    return lambda: calls >= at


def test_finished_run_tells_what_it_was_given(tmp_path: Path) -> None:
    fit(tmp_path / "run", "new", seed=3)
    with RunFolder.open(tmp_path / "run", "read") as run:
        assert (run.status, run.description, run.results) == (
            "finished",
            describe(3),
            {"held_out_nll_nats": 3.0},
        )
        assert [record["kind"] for record in run.read_records()] == ["decision", "step"] * BLOCKS
        run.require_finished()
        assert (run.model / "model.safetensors").exists()
    assert sorted(entry.name for entry in (tmp_path / "run").iterdir()) == [
        ".lock",
        "checkpoints",
        "environment.json",
        "model",
        "run.json",
        "steps.jsonl",
    ]


def test_every_json_carries_the_format(tmp_path: Path) -> None:
    fit(tmp_path, "new", seed=3)
    lines = [line for file in tmp_path.rglob("*.jsonl") for line in file.read_text().splitlines()]
    texts = [file.read_text() for file in tmp_path.rglob("*.json")] + lines
    assert len(texts) == 2 + BLOCKS + 1 + 2 * BLOCKS
    assert {json.loads(text)["format"] for text in texts} == {"jkoflow/1"}


def test_same_seed_gives_the_same_folder(tmp_path: Path) -> None:
    fit(tmp_path / "a", "new", seed=3)
    fit(tmp_path / "b", "resume", seed=3)
    fit(tmp_path / "c", "overwrite", seed=3)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    fit(tmp_path, "new", seed=3)
    before = contents(tmp_path)
    fit(tmp_path, "resume", seed=3)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_run_killed_at_any_point_resumes_to_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    monkeypatch.setattr(os, "fsync", unsynced)
    fit(tmp_path / "whole", "new", seed=3)
    run, expected, points = tmp_path / "run", contents(tmp_path / "whole"), 0
    for points in kill_points(lambda: fit(run, "resume", seed=3), every=every):
        fit(run, "resume", seed=3)
        assert contents(run) == expected, f"killed at point {points}"
        shutil.rmtree(run)
    assert points > 50


def test_killed_run_counts_as_interrupted_and_is_not_ready_to_read(tmp_path: Path) -> None:
    def work() -> None:
        run = RunFolder.open(tmp_path, "new")
        run.start(describe(3))
        train(run, 3, 1)
        os.kill(os.getpid(), signal.SIGKILL)

    assert run_in_fork(work) == -signal.SIGKILL
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "running"
    with RunFolder.open(tmp_path, "read") as run:
        assert run.status == "interrupted"
        with pytest.raises(
            RunFolderError, match=r"interrupted after 1 block\(s\); continue it with .*--resume"
        ):
            run.require_finished()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(1), "interrupted"),
        (NumericalError("diverged", block=2, remedy="use a smaller gamma"), "failed"),
        (ValueError("two\nlines"), "failed"),
    ],
)
def test_error_marks_the_run_and_the_run_can_go_on(tmp_path: Path, error: BaseException, status: str) -> None:
    def stopped() -> None:
        with RunFolder.open(tmp_path / "run", "new") as run:
            run.start(describe(3))
            train(run, 3, 1)
            raise error

    with pytest.raises(type(error)):
        stopped()
    assert status_of(tmp_path / "run") == status
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert ("error" in record) == (status == "failed")
    assert record.get("error", "").isprintable()
    fit(tmp_path / "run", "resume", seed=3)
    fit(tmp_path / "whole", "new", seed=3)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_closing_without_finishing_is_an_interruption(tmp_path: Path) -> None:
    run = RunFolder.open(tmp_path, "new")
    run.start(describe(3))
    run.close()
    run.close()
    assert status_of(tmp_path) == "interrupted"


def test_input_refused_before_the_start_leaves_no_trace(tmp_path: Path) -> None:
    for mode in ("new", "resume", "overwrite"):
        with pytest.raises(InputError, match="NaN"), RunFolder.open(tmp_path / "runs" / "a", mode):
            raise InputError("NaN in column x")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["resume", "overwrite"])
def test_input_refused_before_the_start_leaves_the_run(tmp_path: Path, mode: Mode) -> None:
    fit(tmp_path, "new", seed=3)
    before = contents(tmp_path)
    with pytest.raises(InputError, match="NaN"), RunFolder.open(tmp_path, mode):
        raise InputError("NaN in column x")
    assert contents(tmp_path) == before


def test_resume_refuses_what_the_run_did_not_begin_with(tmp_path: Path) -> None:
    fit(tmp_path, "new", seed=3)
    changed = {**describe(3), "table": {"path": "table.csv", "sha256": "cd" * 32}}
    with RunFolder.open(tmp_path, "resume") as run:
        run.require_same(describe(3))
        run.require_same({"settings": {"gamma": 0.5}})
        with pytest.raises(
            InputError, match=r"expected table\.sha256 'abab.*got 'cdcd.*--overwrite"
        ) as caught:
            run.require_same(changed)
        assert str(caught.value).isprintable()
        with pytest.raises(InputError, match=r"expected seed 3, got 4"):
            run.require_same(describe(4))
        with pytest.raises(InputError, match=r"expected settings\.scheme None, got 'backward'"):
            run.require_same({"settings": {"scheme": "backward"}})


def test_description_is_compared_as_json_gives_it_back(tmp_path: Path) -> None:
    given = {"seed": 3, "settings": {"gamma": float("inf"), "widths": (64, 64)}}
    with RunFolder.open(tmp_path, "new") as run:
        run.start(given)
    with RunFolder.open(tmp_path, "resume") as run:
        run.require_same(given)
        with pytest.raises(InputError, match="widths"):
            run.require_same({"settings": {"widths": (64, 32)}})


def test_step_without_checkpoint_is_dropped_and_decisions_stay(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "new") as run:
        run.start(describe(3))
        train(run, 3, 1)
        run.append_record({"kind": "decision", "block": 2, "what": "halve gamma"})
        run.append_record({"kind": "step", "block": 2})
    with RunFolder.open(tmp_path, "resume") as run:
        run.resume()
        kept = [(record["kind"], record["block"]) for record in run.read_records()]
    assert kept == [("decision", 1), ("step", 1), ("decision", 2)]


def test_half_written_checkpoint_is_not_read_and_goes_on_resuming(tmp_path: Path) -> None:
    fit(tmp_path, "new", seed=3)
    (tmp_path / "checkpoints" / "block_0002.json").unlink()
    with RunFolder.open(tmp_path, "resume") as run:
        assert len(run.read_checkpoints()) == 1
        run.resume()
        names = sorted(file.name for file in (tmp_path / "checkpoints").iterdir())
        assert names == ["block_0001.json", "block_0001.safetensors"]


def test_checkpoints_come_in_order(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "new") as run:
        run.start(describe(3))
        for wrong in (0, 2):
            with pytest.raises(ValueError, match="expected 1"):
                run.write_checkpoint(wrong, {}, {})
        train(run, 3, 1)
        with pytest.raises(ValueError, match="expected 2"):
            run.write_checkpoint(1, {}, {})


def test_dropped_checkpoints_are_written_again(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "new") as run:
        run.start(describe(3))
        for block in (1, 2, 3):
            train(run, 3, block)
        run.drop_checkpoints(after=1)
        assert [meta["gamma"] for _, meta in run.read_checkpoints()] == [0.1]
        train(run, 4, 2)
        assert float(run.read_checkpoints()[1][0]["weight"][0, 0]) == 42.0


def test_writing_needs_a_started_run(tmp_path: Path) -> None:
    fit(tmp_path, "new", seed=3)
    for mode in ("read", "resume"):
        with RunFolder.open(tmp_path, mode) as run:
            for write in (
                lambda run=run: run.append_record({"kind": "step"}),
                lambda run=run: run.write_checkpoint(1, {}, {}),
                lambda run=run: run.drop_checkpoints(after=0),
                run.finish,
                lambda run=run: run.start(describe(3)),
            ):
                with pytest.raises(RuntimeError):
                    write()
    with RunFolder.open(tmp_path, "read") as run, pytest.raises(RuntimeError):
        run.resume()


def test_locked_run_is_refused_in_every_mode(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", "new") as run:
        run.start(describe(3))
        before = contents(tmp_path / "run")
        for mode in ("new", "resume", "overwrite", "read"):
            with pytest.raises(RunFolderError, match="locked") as caught:
                RunFolder.open(tmp_path / "run", mode)
            assert str(caught.value).isprintable()
        assert contents(tmp_path / "run") == before


def test_two_fits_contend_and_one_wins(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ready, told = os.pipe()
    go, begin = os.pipe()
    over, end = os.pipe()  # apart from `go`: the winner would take the byte of one that has not begun

    def contend() -> None:
        os.read(go, 1)
        try:
            with RunFolder.open(folder, "new") as run:
                run.start(describe(3))
                os.write(told, b"won")
                os.read(over, 1)
        except RunFolderError as error:
            assert "locked" in str(error) or "already holds" in str(error), error
            os.write(told, b"out")

    processes = []
    for _ in range(4):
        process = os.fork()
        if process == 0:
            try:
                contend()
            finally:
                os._exit(0)
        processes.append(process)
    os.write(begin, b"g" * len(processes))
    told_by_all = [os.read(ready, 3) for _ in processes]
    os.write(end, b"e")
    for process in processes:
        os.waitpid(process, 0)
    assert sorted(told_by_all) == [b"out"] * 3 + [b"won"]
    assert status_of(folder) == "interrupted"


def test_readers_share_a_run(tmp_path: Path) -> None:
    fit(tmp_path, "new", seed=3)
    with RunFolder.open(tmp_path, "read"), RunFolder.open(tmp_path, "read") as run:
        assert run.status == "finished"
        with pytest.raises(RunFolderError, match="locked"):
            RunFolder.open(tmp_path, "overwrite")


def test_run_can_be_read_where_nothing_can_be_written(tmp_path: Path) -> None:
    fit(tmp_path, "new", seed=3)
    (tmp_path / ".lock").unlink()
    before = contents(tmp_path)
    with RunFolder.open(tmp_path, "read") as run:
        assert len(run.read_checkpoints()) == BLOCKS
    assert contents(tmp_path) == before
    assert not (tmp_path / ".lock").exists()


def test_full_disk_at_any_point_is_one_line_and_the_run_goes_on_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(tmp_path / "whole", "new", seed=3)
    expected, at = contents(tmp_path / "whole"), 0
    while True:
        at += 1
        run = tmp_path / f"run {at}"
        with monkeypatch.context() as patch:
            got_there = filled_up_at(patch, at)
            try:
                fit(run, "new", seed=3)
            except RunFolderError as error:
                assert re.search(f"{re.escape(str(run))}.*: no space left on device; ", str(error))
                assert str(error).isprintable()
            if not got_there():
                break
        fit(run, "resume", seed=3)
        assert contents(run) == expected, f"full at {at}"
    assert at > 30


def test_full_disk_on_closing_does_not_hide_the_first_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped() -> None:
        with RunFolder.open(tmp_path, "new") as run:
            run.start(describe(3))
            filled_up_at(monkeypatch, 1)
            raise NumericalError("diverged", remedy="use a smaller gamma")

    with pytest.raises(NumericalError, match="diverged"):
        stopped()
    monkeypatch.undo()
    assert status_of(tmp_path) == "interrupted"  # what it was could not be written


def test_full_disk_on_closing_is_told_where_it_is_the_only_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder.open(tmp_path, "new")
    run.start(describe(3))
    with monkeypatch.context() as patch:
        filled_up_at(patch, 1)
        with pytest.raises(RunFolderError, match="no space left on device"):
            run.close()
    RunFolder.open(tmp_path, "resume").close()  # unlocked all the same


def test_environment_changes_are_told(tmp_path: Path) -> None:
    fit(tmp_path, "new", seed=3)
    with RunFolder.open(tmp_path, "read") as run:
        assert run.environment_changes() == ()
    file = tmp_path / "environment.json"
    file.write_text(file.read_text().replace(torch.__version__, "1.0.0"))
    with RunFolder.open(tmp_path, "resume") as run:
        assert run.environment_changes() == (f"torch 1.0.0, now {torch.__version__}",)


def test_model_is_found_after_a_kill_while_it_was_replaced(tmp_path: Path) -> None:
    fit(tmp_path, "new", seed=3)
    before = contents(tmp_path)
    (tmp_path / "model").rename(tmp_path / ".model.jkoflow-replaced")
    with RunFolder.open(tmp_path, "resume"):
        pass
    assert contents(tmp_path) == before


def test_saving_twice_replaces_the_model(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "new") as run:
        run.start(describe(3))
        train(run, 3, 1)
        save(run)
        train(run, 3, 2)
        save(run)
        assert json.loads((run.model / "config.json").read_text())["blocks"] == 2

"""`jkoflow fit`: what it prints and leaves, and that an interruption changes no bit of the model."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from cli.commands import INTERRUPTED, SECONDS, check_refused, fit_arguments, make_table, start, tree
from jkoflow import JKOFlow
from jkoflow.cli import main
from jkoflow.cli.progress import Progress, format_seconds
from jkoflow.cli.summary import summary_lines
from jkoflow.data import hash_file
from jkoflow.model import load_model
from jkoflow.storage import read_json


def model_of(folder: Path) -> bytes:
    return (folder / "run" / "model" / "model.safetensors").read_bytes()


@pytest.mark.usefixtures("quick")
def test_fit_leaves_a_run_and_tells_progress_and_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(fit_arguments(tmp_path, "--seed", "5")) == 0
    printed = capsys.readouterr()
    progress = printed.err.splitlines()
    assert progress[0] == f"{tmp_path / 'table.csv'}: 60 rows, 3 columns"
    assert progress[1] == "split: 48 rows to train, 6 to stop, 6 held out to judge"
    blocks = [line for line in progress if line.startswith("block")]
    assert len(blocks) >= 3
    counts = [re.match(r"block +(\d+) of at most (\d+)", line) for line in blocks]
    assert [int(count[1]) for count in counts if count] == list(range(1, len(blocks) + 1))
    assert all(int(count[1]) <= int(count[2]) for count in counts if count)
    assert counts[0] is not None
    assert counts[0][2] == "3"
    assert all(word in blocks[0] for word in ("potential", "-log det", "transport", "validation NLL", "nats"))
    for word in ("held-out NLL", "Gaussian's NLL", "±", "round trip", str(tmp_path / "run" / "model")):
        assert word in printed.out
    names = {path.name for path in (tmp_path / "run").iterdir()} - {".lock"}
    assert names == {"run.json", "environment.json", "steps.jsonl", "checkpoints", "model"}
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["seed"] == 5
    assert record["settings"]["holdout_fraction"] == 0.1
    assert record["settings"]["max_blocks"] == 3


@pytest.mark.usefixtures("quick")
def test_settings_file_can_say_how_much_is_held_out(tmp_path: Path) -> None:
    arguments = fit_arguments(tmp_path)
    (tmp_path / "settings.toml").write_text("max_blocks = 1\nholdout_fraction = 0.2\nseed = 4\n")
    assert main([*arguments, "--seed", "9"]) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["split"]["holdout"] == 12
    assert record["seed"] == 9


@pytest.mark.parametrize(
    ("with_signal", "after"),
    [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGHUP, 1), (signal.SIGKILL, 1)],
    ids=["ctrl-c", "kill", "the terminal closes", "kill -9"],
)
def test_interrupted_and_resumed_is_the_same_model(
    with_signal: signal.Signals,
    after: int,
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program = ("-c", INTERRUPTED, str(int(with_signal)), str(after))
    process = start(fit_arguments(tmp_path), program)
    rest = process.communicate(timeout=SECONDS)[1].splitlines()
    assert not (tmp_path / "run" / "model").exists(), "it was not interrupted"
    if with_signal != signal.SIGKILL:
        assert process.returncode == 128 + with_signal
        by = "" if with_signal == signal.SIGINT else f"{with_signal.name}: "
        assert rest[-1].startswith(f"jkoflow: {by}interrupted after {after} block(s)")
        assert rest[-1].endswith(f"jkoflow fit {tmp_path}/table.csv -o {tmp_path}/run --resume")
        assert [line for line in rest if "Traceback" in line] == []
    else:
        assert process.returncode == -signal.SIGKILL, rest
    # the settings of the run hold without being given again
    assert main(["fit", str(tmp_path / "table.csv"), "-o", str(tmp_path / "run"), "--resume"]) == 0
    assert f"going on after {after} finished block(s)" in capsys.readouterr().err
    assert model_of(tmp_path) == model_of(finished)


def test_resume_starts_where_nothing_is_and_returns_where_all_is_done(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    assert main(fit_arguments(tmp_path, "--resume")) == 0
    assert model_of(tmp_path) == model_of(finished)
    before = tree(tmp_path / "run")
    capsys.readouterr()
    assert main(fit_arguments(tmp_path, "--resume")) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert tree(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda model: shutil.rmtree(model), ("its model is missing",)),
        (lambda model: (model / "config.json").unlink(), ("its model is missing",)),
        (
            lambda model: (model / "model.safetensors").unlink(),
            ("cannot be used", "model.safetensors: missing"),
        ),
        (lambda model: (model / "schema.json").write_text("{}"), ("cannot be used", "schema.json")),
    ],
    ids=["no folder", "no config", "no tensors", "damaged"],
)
def test_resume_of_a_finished_run_without_a_model_says_so(
    damage: Callable[[Path], None],
    words: tuple[str, ...],
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(finished / "run", tmp_path / "run")
    damage(tmp_path / "run" / "model")
    before = tree(tmp_path / "run")
    arguments = ["fit", str(finished / "table.csv"), "-o", str(tmp_path / "run"), "--resume"]
    check_refused(capsys, arguments, 4, "the run is finished, but", *words, "--overwrite to train again")
    assert tree(tmp_path / "run") == before


def test_resume_refuses_another_table_or_setting_and_takes_a_moved_one(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished / "run", tmp_path / "run")
    before = tree(tmp_path / "run")
    (tmp_path / "moved").mkdir()
    moved = make_table(tmp_path / "moved", "renamed.csv")
    resume = ["-o", str(tmp_path / "run"), "--resume"]
    check_refused(capsys, ["fit", str(moved), *resume, "--seed", "1"], 2, "settings.seed 0, got 1")
    assert main(["fit", str(moved), *resume]) == 0
    moved.write_text(moved.read_text().replace("0.", "1.", 1))
    check_refused(capsys, ["fit", str(moved), *resume], 2, "sha256")
    assert tree(tmp_path / "run") == before


@pytest.mark.usefixtures("quick")
def test_overwrite_replaces_a_run_and_nothing_else_does(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished / "run", tmp_path / "run")
    check_refused(capsys, fit_arguments(tmp_path), 4, "already holds a run", "--resume", "--overwrite")
    assert model_of(tmp_path) == model_of(finished)
    assert main(fit_arguments(tmp_path, "--overwrite", "--seed", "1")) == 0
    assert model_of(tmp_path) != model_of(finished)


@pytest.mark.usefixtures("quick")
def test_budget_is_recorded_as_decisions(tmp_path: Path) -> None:
    assert main(fit_arguments(tmp_path, "--budget", "10")) == 0
    records = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    decided = {record["what"] for record in records if record["kind"] == "decision"}
    assert "updates" in decided


@pytest.mark.usefixtures("quick")
def test_context_columns_are_conditioned_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_table(tmp_path)
    assert main(fit_arguments(tmp_path, "--context", "x, z")) == 0
    assert "conditioned on x, z" in capsys.readouterr().err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["table"]["columns"] == ["y"]
    assert record["context"]["columns"] == ["x", "z"]
    assert record["table"]["sha256"] == record["context"]["sha256"] == hash_file(tmp_path / "table.csv")
    run, table = str(tmp_path / "run"), str(tmp_path / "table.csv")
    assert main(["fit", table, "-o", run, "--resume"]) == 0, "the columns are those of the run"
    assert main(["score", run, table, "-o", str(tmp_path / "scores.npy")]) == 0
    frame = pd.read_csv(tmp_path / "table.csv")
    expected = JKOFlow.load(run).log_prob(frame[["y"]], context=frame[["x", "z"]])
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), expected)
    frame[["z", "x"]].head(7).to_csv(tmp_path / "given.csv", index=False)
    sample = ["sample", run, "-o", str(tmp_path / "new.csv"), "--seed", "1"]
    assert main([*sample, "-n", "7", "--context", str(tmp_path / "given.csv")]) == 0
    assert pd.read_csv(tmp_path / "new.csv").shape == (7, 1)
    check_refused(capsys, [*sample, "-n", "7", "--overwrite"], 2, "context", "x, z")
    given = ["--context", str(tmp_path / "given.csv")]
    check_refused(capsys, [*sample, "-n", "8", "--overwrite", *given], 2, "expected 1 or 8 rows, got 7")
    capsys.readouterr()
    assert main(["report", run]) == 0
    assert capsys.readouterr().err == "", "the page has its real rows"


@pytest.mark.parametrize("columns", ["x,nothing", "x,x", "x,y,z", "x,,y", ""])
def test_context_of_wrong_columns_is_refused(
    columns: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_refused(capsys, fit_arguments(tmp_path, "--context", columns), 2)
    assert not (tmp_path / "run").exists()


def step(block: int, planned: int) -> dict[str, object]:
    loss = {"potential_nats": 1.0, "neg_log_det_nats": -0.5, "transport_nats": 0.1}
    nll = {"held_out_nll_data_nats": 3.0}
    return {"kind": "step", "block": block, "planned": planned, "gamma": None, "kept": True, **loss, **nll}


def test_time_left_is_that_of_the_blocks_so_far(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 0.0, 100.0, 110.0, 120.0, 130.0])
    progress = Progress(clock=lambda: next(times))
    progress({"kind": "start", "split": {"train": 1, "validation": 1, "holdout": 0}, "notes": [], "taken": 0})
    for block in (1, 2, 3, 4):
        progress(step(block, 4))
    ends = [line.rpartition("nats")[2] for line in capsys.readouterr().err.splitlines()[-4:]]
    # the first block's time holds the pilot fits', so it predicts nothing
    assert ends == ["", "  about 20 s left", "  about 10 s left", ""]


def test_seconds_are_told_as_people_do() -> None:
    assert [format_seconds(seconds) for seconds in (3.4, 125, 9000)] == ["3 s", "2 min", "2.5 h"]


def test_summary_says_when_the_gaussian_is_better_and_when_the_nll_flatters() -> None:
    results = {
        **{f"{name}_nats": 2.0 for name in ("held_out_nll", "gaussian_nll")},
        **{f"{name}_se_nats": 0.1 for name in ("held_out_nll", "gaussian_nll", "gaussian_minus_ours")},
        "gaussian_minus_ours_nats": -0.25,
        "held_out_on": "validation",
        "held_out_rows": 6,
        "round_trip_error": {"median": 1e-7, "largest": 1e-6},
        "blocks": 2,
        "cpu_seconds": 12.0,
        "ended": "ended after 4 of 16 blocks: all 2 rounds are done",
        "notes": ["a note"],
    }
    text = "\n".join(summary_lines(results, Path("run")))
    assert "worse by 0.2500 ± 0.1000" in text
    assert "flatters" in text
    assert "a note" in text


# ── runs of version 0.1.0 ──


def pinned_fits(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`benchmarks/pinned_fits.py`, which has the run and writes its table."""
    path = Path(__file__).parents[2] / "benchmarks" / "pinned_fits.py"
    spec = importlib.util.spec_from_file_location("benchmark_pinned_fits", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def old_run(folder: Path, pinned: ModuleType) -> list[str]:
    """A run of version 0.1.0 that was interrupted under a budget, its table, and how to go on with it."""
    table = pinned.write_table(pinned.CASES["auto under a budget"], folder)
    shutil.copytree(pinned.BUDGET_RUN, folder / "run")
    return ["fit", str(table), "-o", str(folder / "run"), "--resume"]


@pytest.mark.usefixtures("quick")
def test_run_of_the_first_version_is_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its settings, some of which are gone by now, and its decisions are taken from the record."""
    arguments = old_run(tmp_path, pinned_fits(monkeypatch))
    before = (tmp_path / "run" / "steps.jsonl").read_text()
    assert '"scheme": "backward"' in (tmp_path / "run" / "run.json").read_text()
    assert main(arguments) == 0
    assert (tmp_path / "run" / "steps.jsonl").read_text().startswith(before)
    assert read_json(tmp_path / "run" / "run.json", remedy="")["status"] == "finished"
    assert load_model(tmp_path / "run").settings.budget == 12.0
    capsys.readouterr()
    assert main(arguments) == 0
    assert "the run is finished" in capsys.readouterr().out


def test_names_are_refused_before_the_table_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "table.csv").write_text("no table")
    for text, word in (('objective = "gan"', "objective"), ('block = "spline"', "block")):
        (tmp_path / "settings.toml").write_text(text)
        arguments = ["fit", str(tmp_path / "table.csv"), "-o", str(tmp_path / "run")]
        check_refused(capsys, [*arguments, "--config", str(tmp_path / "settings.toml")], 2, word)

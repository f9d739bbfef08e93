"""What the shell refuses: by name, in one line, with the exit status of the contract, nothing lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jkoflow.cli.fit
from cli.commands import check_refused, fit_arguments, make_table, tree
from jkoflow.cli import main
from jkoflow.errors import NumericalError
from jkoflow.runs import RunFolder

X = np.linspace(0.0, 1.0, 20)


def with_holes(frame: pd.DataFrame) -> pd.DataFrame:
    frame.loc[[3, 5], "b"] = np.nan
    frame.loc[7, "a"] = np.inf
    return frame


BAD_TABLES: dict[str, tuple[Callable[[], pd.DataFrame], tuple[str, ...]]] = {
    "NaN and infinity": (
        lambda: with_holes(pd.DataFrame({"a": X, "b": X**2, "c": X**3})),
        ("b (2 NaN)", "a (1 infinite)", "3 of 20 rows"),
    ),
    "text": (lambda: pd.DataFrame({"a": X, "who": ["me"] * 20}), ("who", "'me'")),
    "a constant": (lambda: pd.DataFrame({"a": X, "b": 2.0}), ("1 constant column", "b")),
    "no row": (lambda: pd.DataFrame({"a": X, "b": X**2}).head(0), ("got none",)),
    "one row": (lambda: pd.DataFrame({"a": X, "b": X**2}).head(1), ("got one row",)),
    "few distinct rows": (
        lambda: pd.DataFrame({"a": np.repeat(X[:9], 5), "b": np.repeat(X[:9], 5)}),
        ("at least 10 distinct rows", "got 9"),
    ),
    "a name twice": (lambda: pd.DataFrame(np.outer(X, X), columns=["a"] * 20), ("a", "twice")),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_table_is_refused_and_nothing_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, words = BAD_TABLES[name]
    make().to_csv(tmp_path / "table.csv", index=False)
    arguments = fit_arguments(tmp_path)
    before = tree(tmp_path)
    check_refused(capsys, arguments, 2, *words)
    assert tree(tmp_path) == before
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("file", "content", "word"),
    [
        ("missing.csv", None, "No such file"),
        ("empty.csv", b"", "empty"),
        ("cut.parquet", b"PAR1\x15\x04", "damaged"),
        ("rows.npy", b"\x93NUMPY\x01\x00v\x00{'descr'", "damaged"),
        ("table.xlsx", b"PK", ".parquet"),
    ],
)
def test_file_that_is_no_table_is_refused(
    file: str, content: bytes | None, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / file).write_bytes(content)
    check_refused(capsys, ["fit", str(tmp_path / file), "-o", str(tmp_path / "run")], 2, file, word)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ("max_block = 3", "max_block"),
        ("max_blocks = 0", "max_blocks"),
        ("gamma = -1.0", "gamma"),
        ("gamma = {kind = 'constant', first = 1.0}", "first"),
        ("smoothing = {kinds = 1}", "kinds"),
        ("objective = 'certain'", "objective"),
        ("dtype = 'float16'", "dtype"),
        ("max_blocks = ", "not TOML"),
        ("[model]\nmax_blocks = 3", "model"),
    ],
)
def test_settings_file_is_refused(
    config: str, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = fit_arguments(tmp_path)
    (tmp_path / "settings.toml").write_text(config)
    check_refused(capsys, arguments, 2, word)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ("expected a verb", "fit, sample, score, certify, report, demo", "--help")),
        (["refine", "run"], ("refine", "'fit', 'sample', 'score', 'certify', 'report', 'demo'")),
        (["certify", "run", "--data"], ("--data", "jkoflow certify --help")),
        (["fit", "table.csv"], ("-o", "jkoflow fit --help")),
        (["fit", "table.csv", "-o", "run", "--resume", "--overwrite"], ("--overwrite", "--resume")),
        (["fit", "table.csv", "-o", "run", "--seeds", "3"], ("--seeds",)),
        (["fit", "table.csv", "-o", "run", "--seed", "x"], ("--seed", "'x'")),
        (["fit", "table.csv", "-o", "run", "--budget", "-3"], ("budget", "-3")),
        (["fit", "table.csv", "-o", "run", "--device", "abacus"], ("device", "abacus")),
        (["sample", "run", "-o", "new.csv"], ("-n",)),
        (["sample", "run", "-n", "1", "-o", "new.csv", "--strict"], ("--strict",)),
    ],
)
def test_usage_is_refused_in_one_line(
    arguments: list[str],
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make_table(tmp_path)
    check_refused(capsys, arguments, 2, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


# ── models and runs ──


def readers(folder: Path) -> list[list[str]]:
    """Each verb that reads the run in `folder`, with an output that must not appear."""
    run, table, out = str(folder / "run"), str(folder / "table.csv"), str(folder / "out.csv")
    return [
        ["sample", run, "-n", "3", "-o", out],
        ["score", run, table, "-o", out],
        ["certify", run, "-o", out],
        ["report", run, "-o", out],
    ]


def check_readers_refuse(
    capsys: pytest.CaptureFixture[str], folder: Path, *words: str, status: int = 4
) -> None:
    for arguments in readers(folder):
        check_refused(capsys, arguments, status, *words)
        assert not (folder / "out.csv").exists()


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be damaged."""
    shutil.copytree(finished, tmp_path / "copy", ignore=shutil.ignore_patterns(".lock"))
    return tmp_path / "copy"


def test_missing_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_table(tmp_path)
    check_readers_refuse(capsys, tmp_path, "no such run folder", "jkoflow fit")


def test_folder_without_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_table(tmp_path)
    (tmp_path / "run").mkdir()
    check_readers_refuse(capsys, tmp_path, "run.json is missing")


def test_run_that_has_not_finished_is_refused(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((copied / "run" / "run.json").read_text())
    (copied / "run" / "run.json").write_text(json.dumps({**record, "status": "running"}))
    blocks = len(list((copied / "run" / "checkpoints").glob("*.json")))
    assert blocks >= 3
    words = f"interrupted after {blocks} block(s)"
    check_readers_refuse(capsys, copied, "has not finished", words, "--resume")


def test_locked_run_is_refused(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunFolder.open(copied / "run", "resume"):
        check_readers_refuse(capsys, copied, "locked", str(os.getpid()))
        check_refused(capsys, fit_arguments(copied, "--overwrite"), 4, "locked")
        check_refused(capsys, fit_arguments(copied, "--resume"), 4, "locked")


@pytest.mark.parametrize("name", ["run.json", "model/config.json", "model/schema.json"])
def test_half_written_or_future_record_is_refused(
    name: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied / "run" / name
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    check_readers_refuse(capsys, copied, Path(name).name)
    path.write_text(whole.replace('"jkoflow/1"', '"jkoflow/2"'))
    check_readers_refuse(capsys, copied, Path(name).name, "jkoflow/2")
    path.unlink()
    check_readers_refuse(capsys, copied)


def test_corrupt_tensors_are_refused(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied / "run" / "model" / "model.safetensors"
    whole = bytearray(path.read_bytes())
    whole[-5] ^= 1
    path.write_bytes(whole)
    check_readers_refuse(capsys, copied, "model.safetensors")
    path.write_bytes(whole[:100])
    check_readers_refuse(capsys, copied, "model.safetensors")


@pytest.mark.usefixtures("quick")
def test_damaged_checkpoint_is_refused_and_overwrite_helps(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((copied / "run" / "run.json").read_text())
    (copied / "run" / "run.json").write_text(json.dumps({**record, "status": "running"}))
    path = copied / "run" / "checkpoints" / "block_0002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    check_refused(capsys, fit_arguments(copied, "--resume"), 4, "block_0002", "--overwrite")
    assert main(fit_arguments(copied, "--overwrite")) == 0


def test_folder_of_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = fit_arguments(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    for more in ([], ["--resume"], ["--overwrite"]):
        check_refused(capsys, [*arguments, *more], 4, "not a run")
    check_refused(capsys, ["demo", "-o", str(tmp_path / "run")], 4, "not a run")
    assert tree(tmp_path / "run") == {"thesis.tex": b"years of work"}


def test_table_inside_the_run_to_be_overwritten_is_refused(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied / "run"
    shutil.copy(copied / "table.csv", run / "samples.csv")
    arguments = ["fit", str(run / "samples.csv"), "-o", str(run), "--overwrite"]
    check_refused(capsys, arguments, 2, "samples.csv", "move it elsewhere")
    assert (run / "samples.csv").exists()


# ── rows and outputs ──


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda frame: frame.drop(columns="y"), ("missing y",)),
        (lambda frame: frame.assign(extra=1.0), ("not known extra",)),
        (lambda frame: frame.rename(columns={"x": "X"}), ("missing x", "not known X")),
    ],
)
def test_columns_that_differ_from_the_fit_are_refused(
    change: Callable[[pd.DataFrame], pd.DataFrame],
    words: tuple[str, ...],
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(pd.read_csv(finished / "table.csv")).to_csv(tmp_path / "other.csv", index=False)
    arguments = ["score", str(finished / "run"), str(tmp_path / "other.csv"), "-o", str(tmp_path / "out.csv")]
    check_refused(capsys, arguments, 2, *words)
    assert not (tmp_path / "out.csv").exists()


def test_array_of_another_width_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((4, 5)))
    arguments = ["score", str(finished / "run"), str(tmp_path / "wide.npy"), "-o", str(tmp_path / "out.csv")]
    check_refused(capsys, arguments, 2, "3 columns", "got 5")


def test_existing_output_is_kept_without_overwrite(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / "out.csv").write_text("kept")
    for arguments in readers(copied):
        check_refused(capsys, arguments, 4, "out.csv", "already there", "--overwrite")
        assert (copied / "out.csv").read_text() == "kept"
        assert main([*arguments, "--overwrite"]) == 0
        assert (copied / "out.csv").read_text() != "kept"
        (copied / "out.csv").write_text("kept")


@pytest.mark.parametrize(("name", "word"), [("out.txt", ".parquet"), ("none/out.csv", "does not exist")])
def test_output_that_cannot_be_is_refused(
    name: str, word: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = str(finished / "run"), str(tmp_path / name)
    check_refused(capsys, ["sample", run, "-n", "3", "-o", out], 2, word)
    check_refused(capsys, ["score", run, str(finished / "table.csv"), "-o", out], 2, word)


@pytest.mark.parametrize("rows", ["0", "-3"])
def test_no_row_is_refused(
    rows: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out.csv")
    check_refused(capsys, ["sample", str(finished / "run"), "-n", rows, "-o", out], 2, "at least 1", rows)


def test_sample_of_more_rows_than_fit_in_memory_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["sample", str(finished / "run"), "-n", str(10**12), "-o", str(tmp_path / "rows.csv")]
    check_refused(capsys, arguments, 2, "fit in memory", "TB of memory are needed", "draw fewer at a time")
    check_refused(capsys, [*arguments[:3], "2.0", *arguments[4:]], 2, "invalid int value: '2.0'")
    assert list(tmp_path.iterdir()) == []


def test_context_that_the_model_does_not_have_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table = str(tmp_path / "out.csv"), str(finished / "table.csv")
    arguments = ["sample", str(finished / "run"), "-n", "3", "-o", out, "--context", table]
    check_refused(capsys, arguments, 2, "fitted without")


# ── what goes wrong on the way ──


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_is_told_and_resumed_from(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = fit_arguments(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("jkoflow.runs.checkpoints.write_safetensors", full)
        capsys.readouterr()
        assert main(arguments) == 4
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("jkoflow: ")
    assert "no space left" in error
    assert main([*arguments, "--resume"]) == 0
    name = "run/model/model.safetensors"
    assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


def test_full_disk_leaves_no_half_output(
    copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", full)
    check_readers_refuse(capsys, copied, "out.csv", "no space left")


@pytest.mark.parametrize(
    ("failure", "status", "words"),
    [
        (
            NumericalError("diverged", block=2, step=7, time=0.5, remedy="smooth more"),
            3,
            ("block 2", "smooth"),
        ),
        (KeyboardInterrupt(), 130, ("interrupted", "nothing was written")),
        (OSError(errno.ENOSPC, "full", "run"), 4, ("run", "no space left")),
        (ZeroDivisionError("by\nzero"), 70, ("ZeroDivisionError: by zero", "--debug")),
    ],
)
def test_failure_has_its_exit_status(
    failure: BaseException,
    status: int,
    words: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(jkoflow.cli.fit, "fit_table", fail)
    check_refused(capsys, fit_arguments(tmp_path), status, *words)
    assert not (tmp_path / "run").exists()
    assert main([*fit_arguments(tmp_path), "--debug"]) == status
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["certify", "report", "demo"])
def test_verbs_that_are_not_for_several_processes(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "none"), ("WORLD_SIZE", "2"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    given = [] if verb == "demo" else [str(tmp_path / "run")]
    check_refused(capsys, [verb, *given], 2, f"{verb}: expected one process, got 2")


def test_of_several_processes_the_first_tells_what_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "none"), ("WORLD_SIZE", "2"), ("RANK", "1")):
        monkeypatch.setenv(name, value)
    assert main(["certify", "run"]) == 2
    assert capsys.readouterr() == ("", "")

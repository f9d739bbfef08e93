"""What `sample`, `score` and `report` write, and how the command behaves as a citizen of a shell."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jkoflow.cli.sample
from cli.commands import SECONDS, start, tree
from jkoflow import JKOFlow
from jkoflow.cli import main
from jkoflow.cli.sample import missed_line
from jkoflow.data import read_table
from jkoflow.report.gather import image_shape_of


def test_samples_by_suffix_are_the_same_rows(finished: Path, tmp_path: Path) -> None:
    run = str(finished / "run")
    for suffix in (".csv", ".tsv", ".parquet", ".npy", ".npz"):
        out = str(tmp_path / f"new{suffix}")
        assert main(["sample", run, "-n", "20", "-o", out, "--seed", "3"]) == 0
    expected = JKOFlow.load(run).sample(20, random_state=3)
    for suffix in (".csv", ".tsv", ".parquet", ".npy", ".npz"):
        table = read_table(tmp_path / f"new{suffix}")
        np.testing.assert_array_equal(table.values, expected.to_numpy())
        assert table.columns == (("x", "y", "z") if suffix[1:3] != "np" else ("x0", "x1", "x2"))


def test_fewer_samples_are_the_first_of_more_and_seeds_differ(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = ["sample", str(finished / "run"), "-o"]
    assert main([*sample, str(tmp_path / "5.npy"), "-n", "5", "--seed", "1"]) == 0
    assert main([*sample, str(tmp_path / "1100.npy"), "-n", "1100", "--seed", "1"]) == 0
    few, many = np.load(tmp_path / "5.npy"), np.load(tmp_path / "1100.npy")
    np.testing.assert_array_equal(few, many[:5])
    capsys.readouterr()
    assert main([*sample, str(tmp_path / "a.npy"), "-n", "5"]) == 0
    assert main([*sample, str(tmp_path / "b.npy"), "-n", "5"]) == 0
    seeds = re.findall(r"seed (\d+)", capsys.readouterr().out)
    assert not np.array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))
    assert main([*sample, str(tmp_path / "c.npy"), "-n", "5", "--seed", seeds[0]]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "c.npy"))


def test_rows_that_missed_the_round_trip_are_told(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert missed_line(np.array([1e-7, 9e-5]), "float32") == ""
    assert missed_line(np.array([1e-9, 9e-5]), "float64") != ""
    assert "1 of 2 rows (50.00%)" in missed_line(np.array([1e-7, np.nan]), "float32")
    monkeypatch.setattr(jkoflow.cli.sample, "round_trip_tolerance", lambda dtype: 0.0)
    out = str(tmp_path / "new.csv")
    assert main(["sample", str(finished / "run"), "-n", "10", "-o", out]) == 0
    assert "missed the round-trip tolerance" in capsys.readouterr().err
    assert len(pd.read_csv(out)) == 10


def test_scores_are_in_input_order_whatever_the_order_of_columns(finished: Path, tmp_path: Path) -> None:
    run, frame = str(finished / "run"), pd.read_csv(finished / "table.csv")
    shuffled = frame.sample(frac=1.0, random_state=0)[["z", "x", "y"]]
    shuffled.to_parquet(tmp_path / "shuffled.parquet")
    assert main(["score", run, str(tmp_path / "shuffled.parquet"), "-o", str(tmp_path / "scores.npy")]) == 0
    assert main(["score", run, str(finished / "table.csv"), "-o", str(tmp_path / "scores.csv")]) == 0
    scores, column = np.load(tmp_path / "scores.npy"), pd.read_csv(tmp_path / "scores.csv")
    assert scores.dtype == np.float64
    assert scores.shape == (60,)
    assert list(column.columns) == ["log_prob"]
    np.testing.assert_allclose(scores, column["log_prob"].to_numpy()[shuffled.index], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(column["log_prob"], JKOFlow.load(run).log_prob(frame))


def test_model_folder_alone_is_enough(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "run" / "model", tmp_path / "deployed")
    table = str(finished / "table.csv")
    for model, name in ((tmp_path / "deployed", "a.npy"), (finished / "run", "b.npy")):
        assert main(["score", str(model), table, "-o", str(tmp_path / name)]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


def test_rows_out_of_this_world_are_told(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pd.DataFrame({"x": [0.0, 1e300], "y": 0.0, "z": 0.0}).to_csv(tmp_path / "far.csv", index=False)
    out = str(tmp_path / "scores.csv")
    assert main(["score", str(finished / "run"), str(tmp_path / "far.csv"), "-o", out]) == 0
    assert "1 of 2 rows" in capsys.readouterr().err
    assert len(pd.read_csv(out, skip_blank_lines=False)) == 2


# ── the report ──


def report(folder: Path, out: Path) -> str:
    assert main(["report", str(folder / "run"), "-o", str(out)]) == 0
    return out.read_text()


def test_report_is_one_page_that_leaves_the_run_as_it_was(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(finished / "run")
    page = report(finished, tmp_path / "page.html")
    assert capsys.readouterr().err == ""
    for word in ("table.csv", "Held-out NLL", "Gaussian", "data:image/"):
        assert word in page
    assert re.findall(r"https?://(?!www\.w3\.org)", page) == []
    assert tree(finished / "run") == before
    assert page == report(finished, tmp_path / "again.html")


def test_report_goes_into_the_run_by_default(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "run", tmp_path / "run")
    assert main(["report", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "report.html").exists()
    assert main(["report", str(tmp_path / "run")]) == 4
    assert main(["report", str(tmp_path / "run"), "--overwrite"]) == 0


@pytest.mark.parametrize(("change", "word"), [("gone", "not there any more"), ("other", "has changed")])
def test_report_without_its_table_says_so(
    change: str, word: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "copy" / "run"
    shutil.copytree(finished, tmp_path / "copy")
    table = tmp_path / "copy" / "table.csv"
    record = (run / "run.json").read_text()
    (run / "run.json").write_text(record.replace(str(finished), str(tmp_path / "copy")))
    if change == "gone":
        table.unlink()
    else:
        table.write_text(table.read_text().replace("0.", "1.", 1))
    page = report(tmp_path / "copy", tmp_path / "page.html")
    (note,) = capsys.readouterr().err.splitlines()
    assert word in note
    assert word in page
    assert "Held-out NLL" in page


def test_columns_named_as_pixels_are_a_picture() -> None:
    names = tuple(f"pixel_{row}_{column}" for row in range(2) for column in range(3))
    assert image_shape_of(names) == (2, 3)
    assert image_shape_of(names[:-1]) is None
    assert image_shape_of(names[::-1]) is None
    assert image_shape_of((*names, "x")) is None
    assert image_shape_of(("x", "y")) is None


# ── in a shell ──


@pytest.mark.parametrize("verb", ["", "fit", "sample", "score", "certify", "report", "demo"])
def test_help_teaches(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*([verb] if verb else []), "--help"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert f"jkoflow {verb}".strip() in printed.out
    assert "example" in printed.out
    assert "--debug" in printed.out
    if not verb:
        assert "exit status" in printed.out
        assert "nats" in printed.out
    assert max(len(line) for line in printed.out.splitlines()) <= 112


def test_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"jkoflow \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_debug_before_and_after_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["score", str(tmp_path / "none"), "table.csv", "-o", str(tmp_path / "out.csv")]
    assert main(arguments) == main(["--debug", *arguments]) == main([*arguments, "--debug"]) == 4
    assert capsys.readouterr().err.count("Traceback") == 2


def test_module_runs_as_a_command(tmp_path: Path) -> None:
    process = start(["score", str(tmp_path / "none"), "table.csv", "-o", str(tmp_path / "out.csv")])
    out, error = process.communicate(timeout=SECONDS)
    assert process.returncode == 4
    assert out == ""
    assert len(error.splitlines()) == 1


def test_reader_that_left_stops_nothing(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        out = tmp_path / "new.csv"
        assert main(["sample", str(finished / "run"), "-n", "3", "-o", str(out)]) == 0
    assert out.exists()
    assert capsys.readouterr().err == ""


def test_full_disk_under_stdout_is_told(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    out = str(tmp_path / "new.csv")
    assert main(["sample", str(finished / "run"), "-n", "3", "-o", out]) == 4
    assert "standard output: no space left" in capsys.readouterr().err
    monkeypatch.undo()

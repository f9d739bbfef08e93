"""`jkoflow demo`: what it leaves, that it replaces itself and nothing else, and (slowly) its quality."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

import jkoflow.cli.demo
from cli.commands import check_refused, tree
from jkoflow import JKOFlow
from jkoflow.cli import fit, main
from oracles.quick_training import use_quick_recipe

ROWS = 150


@pytest.fixture
def _quick_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    use_quick_recipe(monkeypatch)
    digits = SimpleNamespace(data=load_digits().data[:ROWS])
    monkeypatch.setattr(jkoflow.cli.demo, "load_digits", lambda: digits)
    monkeypatch.setattr(fit, "shell_defaults", lambda: {"holdout_fraction": 0.1, "max_blocks": 2})


@pytest.mark.usefixtures("_quick_demo")
def test_demo_leaves_everything_and_a_second_one_replaces_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "demo"
    assert main(["demo", "-o", str(run)]) == 0
    printed = capsys.readouterr()
    for word in ("held-out NLL", "Gaussian's NLL", "samples.csv", "report.html"):
        assert word in printed.out
    assert "64 columns" in printed.err
    samples = pd.read_csv(run / "samples.csv")
    assert samples.shape == (1000, 64)
    assert list(samples.columns)[7:9] == ["pixel_0_7", "pixel_1_0"]
    page = (run / "report.html").read_text()
    assert "without real rows" not in page
    assert page.count("data:image/") >= 6
    opening = "nothing is known of the model: 15 held-out rows, of 100 that are needed"
    assert f"verdict         ? {opening}" in printed.out
    assert page.index(f"N{opening[1:]}") < page.index('class="cards"')
    assert (run / "certificates.json").exists()
    first = tree(run)
    assert main(["demo", "-o", str(run)]) == 0
    second = tree(run)
    for name in ("model/model.safetensors", "samples.csv", "digits.csv"):
        assert second[name] == first[name]
    assert set(second) == set(first)


@pytest.mark.usefixtures("_quick_demo")
def test_demo_can_be_used_like_any_run_and_moved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "-o", str(tmp_path / "demo")]) == 0
    shutil.move(tmp_path / "demo", tmp_path / "moved")
    run, table = str(tmp_path / "moved"), str(tmp_path / "moved" / "digits.csv")
    capsys.readouterr()
    assert main(["report", run, "--overwrite"]) == 0
    assert capsys.readouterr().err == "", "the table is found in the folder itself"
    assert main(["score", run, table, "-o", str(tmp_path / "scores.npy")]) == 0
    assert np.load(tmp_path / "scores.npy").shape == (ROWS,)
    # the levels are those of scikit-learn, with noise of one level around them
    noise = pd.read_csv(table).to_numpy() - load_digits().data[:ROWS]
    assert np.abs(noise).max() <= 0.5
    assert noise.std() == pytest.approx(12**-0.5, abs=0.01)


def test_demo_replaces_no_run_of_the_user(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished / "run", tmp_path / "run")
    before = tree(tmp_path / "run")
    check_refused(capsys, ["demo", "-o", str(tmp_path / "run")], 4, "not the demo's", "-o")
    assert tree(tmp_path / "run") == before


@pytest.mark.slow
def test_demo_beats_the_gaussian(tmp_path: Path) -> None:
    assert main(["demo", "-o", str(tmp_path / "demo")]) == 0
    results = json.loads((tmp_path / "demo" / "run.json").read_text())["results"]
    assert results["gaussian_minus_ours_nats"] > 5 * results["gaussian_minus_ours_se_nats"] > 0
    assert results["round_trip_error"]["largest"] < 1e-4
    generated = JKOFlow.load(tmp_path / "demo").sample(500, random_state=0).to_numpy()
    assert np.abs(generated.mean(axis=0) - load_digits().data.mean(axis=0)).max() < 1.5

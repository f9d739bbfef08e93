"""A fit that begins with an autoregressive block: its folder is read back, an interruption is made good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from cli.commands import make_config
from jkoflow import JKOFlow
from jkoflow.cli import main
from jkoflow.cli.progress import Progress
from oracles.quick_training import use_quick_recipe


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    use_quick_recipe(monkeypatch, updates=10, leads=True)


def fit(folder: Path, name: str) -> list[str]:
    """A table of four columns, each a spike or a wide bump, which the one before decides; and its fit."""
    rng = np.random.default_rng(1)
    side = rng.uniform(size=(1500, 4)) < 0.5
    side[:, 1:] ^= side[:, :-1]
    noise = rng.normal(size=side.shape)
    table = folder / "table.csv"
    pd.DataFrame(np.where(side, -1 + 0.01 * noise, 0.7 + 0.5 * noise)).to_csv(table, index=False)
    return ["fit", str(table), "-o", str(folder / name), "--config", str(make_config(folder))]


def test_its_folder_is_read_back(tmp_path: Path) -> None:
    assert main(fit(tmp_path, "run")) == 0
    model = JKOFlow.load(tmp_path / "run")
    first = next(iter(model.flow_))
    assert type(first).__name__ == "AutoregressiveBlock"
    rows, drawn, scores = tmp_path / "table.csv", tmp_path / "drawn.csv", tmp_path / "scores.csv"
    assert main(["sample", str(tmp_path / "run"), "-n", "20", "-o", str(drawn)]) == 0
    assert main(["score", str(tmp_path / "run"), str(rows), "-o", str(scores)]) == 0
    told = pd.read_csv(scores).to_numpy()[:, -1]
    assert_allclose(told, model.score_samples(pd.read_csv(rows)), atol=1e-5)


def test_interrupted_after_it_and_resumed_is_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(fit(tmp_path, "whole")) == 0
    tell = Progress.__call__

    def tell_and_interrupt(progress: Progress, record: Any) -> None:
        tell(progress, record)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "__call__", tell_and_interrupt)
        assert main(fit(tmp_path, "run")) == 130
    assert main([*fit(tmp_path, "run"), "--resume"]) == 0
    models = [tmp_path / run / "model" / "model.safetensors" for run in ("whole", "run")]
    assert models[0].read_bytes() == models[1].read_bytes()

"""The run folder of a fit: it goes on after any interruption to the same model, and to no other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from fitting.quick_fits import fit_run, fit_table, model_bytes, settings, stored, without_seconds
from jkoflow.config import Settings
from jkoflow.data import read_table, write_table
from jkoflow.errors import InputError
from jkoflow.model import Model
from jkoflow.runs import RunFolder


def interrupt_after(block: int, tmp_path: Path, chosen: Settings) -> Path:
    """A run that was interrupted when so many blocks were on the disk."""

    def progress(record: dict[str, Any]) -> None:
        if record.get("block", 0) == block:
            raise KeyboardInterrupt

    run = tmp_path / f"interrupted after {block}"
    with pytest.raises(KeyboardInterrupt):
        fit_run(read_table(tmp_path / "table.csv"), run, chosen, progress)
    return run


def read_steps(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"budget": 1.0},
        {"smoothing": 0.1, "dtype": "float64"},
        {"objective": "jko", "gamma": 0.5},
        {
            "objective": "jko",
            "gamma": {"kind": "adaptive", "first": 0.2, "stop_ratio": None},
            "max_blocks": 1,
        },
        {"objective": "end_to_end", "gamma": 0.5},
    ],
    ids=str,
)
def test_resumed_after_any_block_is_the_same_model(options: dict[str, Any], tmp_path: Path) -> None:
    table, chosen = stored(tmp_path), settings(**options)
    whole = fit_run(table, tmp_path / "whole", chosen)
    for block in range(len(whole.steps)):
        run = tmp_path / f"after {block}"
        if "budget" in options:
            # the clock differs from run to run: what was decided is replayed, what was not is decided anew
            shutil.copytree(tmp_path / "whole", run, ignore=shutil.ignore_patterns("model"))
            record = json.loads((run / "run.json").read_text())
            (run / "run.json").write_text(json.dumps({**record, "status": "running"}))
            for path in (run / "checkpoints").iterdir():
                if int(path.stem.removeprefix("block_")) > block:
                    path.unlink()
        else:
            run = interrupt_after(block, tmp_path, chosen) if block else run
        resumed = fit_run(table, run, chosen)
        assert model_bytes(run) == model_bytes(tmp_path / "whole")
        for ours, theirs in zip(resumed.steps, whole.steps, strict=True):
            assert without_seconds(ours) == without_seconds(theirs)
        names = [record for record in read_steps(run) if record["kind"] == "step"]
        assert [record["block"] for record in names] == [step["block"] for step in whole.steps]


def test_decisions_of_a_budget_are_on_record_before_their_step(tmp_path: Path) -> None:
    fit_run(stored(tmp_path), tmp_path / "run", settings(budget=4.0))
    records = read_steps(tmp_path / "run")
    trained = [r for r in records if r["kind"] == "step" and r["finished_on"] != "closed_form"]
    assert trained
    for step in trained:
        before = records[: records.index(step)]
        assert any(r["kind"] == "decision" and r.get("block") == step["block"] for r in before)
    assert [r["what"] for r in records[:2]] == ["pilot", "blocks"]


def test_resume_refuses_another_table_and_setting(tmp_path: Path) -> None:
    table, chosen = stored(tmp_path), settings()
    run = interrupt_after(1, tmp_path, chosen)
    with pytest.raises(InputError, match=r"settings\.seed 0, got 1"):
        fit_run(table, run, settings(seed=1))
    write_table(tmp_path / "table.csv", table.values + 1.0, ["a", "b"], overwrite=True)
    with pytest.raises(InputError, match="sha256"):
        fit_run(read_table(tmp_path / "table.csv"), run, chosen)


def test_resume_refuses_other_weights(tmp_path: Path) -> None:
    table, weight = stored(tmp_path), np.linspace(1, 2, 120)

    def fit(run: str, weight: Any) -> None:
        with RunFolder.open(tmp_path / run, "resume") as folder:
            fit_table(table, settings=settings(), run=folder, weight=weight, weight_column="w")

    fit("weighted", weight)
    run = json.loads((tmp_path / "weighted" / "run.json").read_text())
    assert run["weights"]["column"] == "w"
    (tmp_path / "weighted" / "run.json").write_text(json.dumps({**run, "status": "running"}))
    with pytest.raises(InputError, match=r"weights\.sha256"):
        fit("weighted", weight[::-1].copy())
    fit("weighted", weight)


def test_memory_and_folder_give_the_same_model(tmp_path: Path) -> None:
    table = stored(tmp_path)
    fitted = fit_run(table, tmp_path / "run", settings())
    in_memory: Model = fit_table(table, settings=settings()).model
    assert_allclose(in_memory.log_prob(table), fitted.model.log_prob(table), rtol=0, atol=0)
    with RunFolder.open(tmp_path / "run", "read") as folder:
        assert folder.status == "finished"
        assert folder.results["held_out_nll_nats"] == fitted.results["held_out_nll_nats"]
        assert [record for record in folder.read_records() if record["kind"] == "step"]

"""From a table to a model: the split, what is held out, and a run that goes on after any interruption."""

from __future__ import annotations

import json
import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.covariance import ledoit_wolf

import jkoflow.fitting
from jkoflow.config import Settings
from jkoflow.data import Table, read_table, write_table
from jkoflow.errors import InputError
from jkoflow.fitting import Fitted, describe, encode_rows, recognise_by, split_rows
from jkoflow.model import Model
from jkoflow.runs import RunFolder
from oracles.quick_training import quick_recipe
from oracles.scratch_files import map_everything, mapped_files

BLOCKS = 3


fit_table = partial(jkoflow.fitting.fit_table, recipe=quick_recipe())
"""With small blocks and few updates."""


def values(n: int = 120, seed: int = 0) -> np.ndarray:
    """Two clusters."""
    rng = np.random.default_rng(seed)
    return rng.choice([-1.5, 1.5], size=(n, 1)) + 0.4 * rng.normal(size=(n, 2))


def settings(**options: Any) -> Settings:
    return Settings(**{"max_blocks": BLOCKS, "holdout_fraction": 0.1, **options})


def stored(folder: Path) -> Table:
    """The table on the disk, as the shell reads it."""
    write_table(folder / "table.csv", values(), ["a", "b"])
    return read_table(folder / "table.csv")


def fit_run(table: Table, run: Path, chosen: Settings, progress: Any = lambda record: None) -> Fitted:
    with RunFolder.open(run, "resume") as folder:
        return fit_table(table, settings=chosen, run=folder, progress=progress)


def without_seconds(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if not key.startswith("cpu_seconds")}


def model_bytes(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


# ── the fit ──


def test_fit_never_sees_what_is_held_out() -> None:
    table = read_table(values())
    held_out = split_rows(table, settings()).holdout
    moved = table.values.copy()
    moved[held_out] += 1e-6  # so little that the rows sort as before, and the split is the same
    assert_array_equal(split_rows(read_table(moved), settings()).holdout, held_out)
    plain, other = (fit_table(read_table(rows), settings=settings()) for rows in (table.values, moved))
    assert other.model.schema == plain.model.schema
    for ours, theirs in zip(
        plain.model.flow.state_dict().values(), other.model.flow.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert other.results["held_out_nll_nats"] != plain.results["held_out_nll_nats"]


def test_results_are_those_of_the_model_on_the_rows_held_out() -> None:
    table, chosen = read_table(values()), settings()
    fitted = fit_table(table, settings=chosen)
    split, results = split_rows(table, chosen), fitted.results
    held_out = table.take(split.holdout)
    nats = -fitted.model.log_prob(held_out)
    assert results["held_out_on"] == "holdout"
    assert results["held_out_rows"] == len(nats) == 12
    assert results["held_out_nll_nats"] == pytest.approx(nats.mean(), abs=1e-5)
    assert results["held_out_nll_se_nats"] == pytest.approx(nats.std(ddof=1) / math.sqrt(12), rel=1e-4)
    train = fitted.model.schema.standardise(table.values[split.train])
    mean, covariance = train.mean(axis=0), ledoit_wolf(train)[0]
    z = fitted.model.schema.standardise(held_out.values) - mean
    gaussian = 0.5 * (
        np.einsum("ni,ij,nj->n", z, np.linalg.inv(covariance), z)
        + np.linalg.slogdet(2 * np.pi * covariance)[1]
    )
    gaussian -= fitted.model.schema.log_jacobian
    assert results["gaussian_nll_nats"] == pytest.approx(gaussian.mean(), abs=1e-4)
    assert results["gaussian_minus_ours_nats"] == pytest.approx((gaussian - nats).mean(), abs=1e-4)
    assert results["round_trip_error"]["largest"] < 1e-4
    assert results["blocks"] == len(fitted.model.flow)


def test_without_holdout_the_result_is_on_validation_and_says_so() -> None:
    results = fit_table(read_table(values()), settings=settings(holdout_fraction=0.0)).results
    assert results["held_out_on"] == "validation"


def test_progress_is_a_start_and_then_every_step() -> None:
    records: list[dict[str, Any]] = []
    fitted = fit_table(read_table(values()), settings=settings(), progress=records.append)
    assert [record["kind"] for record in records] == ["start"] + ["step"] * len(fitted.steps)
    assert records[0]["split"] == split_rows(read_table(values()), settings()).sizes()
    assert records[1:] == fitted.steps
    assert [step["block"] for step in fitted.steps] == list(range(1, len(fitted.steps) + 1))
    assert fitted.steps[0]["planned"] == BLOCKS
    assert all(step["planned"] >= step["block"] for step in fitted.steps)
    jacobian = fitted.model.schema.log_jacobian
    for step in fitted.steps:
        if step["kept"]:
            assert step["held_out_nll_data_nats"] == pytest.approx(step["held_out_nll_nats"] - jacobian)


def test_published_reparametrisation_goes_through_all_its_rounds() -> None:
    gamma = {"kind": "adaptive", "first": 0.2, "rounds": 3, "stop_ratio": None, "eta": 1.0}
    chosen = settings(objective="jko", gamma=gamma, max_blocks=2)
    steps = fit_table(read_table(values()), settings=chosen).steps
    assert [step["round"] for step in steps] == [0, 0, 1, 1, 2, 2]
    assert [step["planned"] for step in steps] == [6] * 6
    gammas = [tuple(step["gamma"] for step in steps[start : start + 2]) for start in (0, 2, 4)]
    assert len(set(gammas)) == 3, "step sizes are chosen anew after every round but the last"


def test_rows_are_encoded_as_the_fit_saw_them() -> None:
    integers = np.random.default_rng(0).poisson(4.0, size=(200, 2))
    table, chosen = read_table(integers), settings(smoothing={"kind": "ornstein_uhlenbeck", "time": 0.4})
    fitted = fit_table(table, settings=chosen)
    first, again = (encode_rows(fitted.model, table, None, stream="holdout", seed=0).x for _ in range(2))
    other = encode_rows(fitted.model, table, None, stream="train", seed=0).x
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.dtype == torch.float32
    # what smoothing left of z: e^{-t} z plus noise of variance 1 - e^{-2t}
    noise = first.double().numpy() - math.exp(-0.4) * fitted.model.schema.standardise(integers)
    assert noise.std() == pytest.approx(math.sqrt(1 - math.exp(-0.8)), rel=0.15)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"gamma": {"kind": "constant"}}, "value"),
        ({"gamma": "slow"}, "gamma"),
        ({"smoothing": "much"}, "smoothing"),
        ({"device": "abacus"}, "device"),
        ({"objective": "gan"}, "objective: expected one of .*'end_to_end'"),
        ({"block": "spline"}, "block: expected one of .*'neural_ode'"),
        ({"block": {"kind": "affine", "width": 3}}, "block 'affine': expected options among .*, got 'width'"),
        ({"law": "cauchy"}, "law: expected one of .*standard_normal"),
        ({"law": {"kind": "gaussian", "mean": [0.0], "covariance": [[1.0]]}}, "expected one of 2 columns"),
    ],
)
def test_options_are_refused_before_anything_is_written(
    options: dict[str, Any], word: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=word):
        fit_run(read_table(values()), tmp_path / "run", settings(**options))
    assert list(tmp_path.iterdir()) == []


def test_context_of_another_length_is_refused() -> None:
    with pytest.raises(InputError, match="expected 120 rows, one for each row, got 3"):
        fit_table(read_table(values()), settings=settings(), context=read_table(np.zeros((3, 1))))


# ── rows that are larger than the memory ──


def counted(n: int = 240) -> np.ndarray:
    """A continuous column and one on a grid, with copies of rows."""
    rows = np.column_stack([values(n)[:, 0], np.random.default_rng(3).poisson(4.0, size=n)])
    rows[n // 2 :: 7] = rows[0]
    return rows


@pytest.mark.parametrize(
    "options",
    [{}, {"smoothing": 0.3, "holdout_fraction": 0.0}, {"objective": "jko", "gamma": 0.5, "dtype": "float64"}],
    ids=str,
)
@pytest.mark.parametrize("conditional", [False, True])
def test_rows_on_the_disk_are_fitted_as_rows_in_memory(
    conditional: bool, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every array mapped, 16 rows at a time: model, records and results to the last bit."""
    given = np.random.default_rng(5).normal(size=(240, 1)) if conditional else None
    np.save(tmp_path / "table.npy", counted())

    def fitted() -> Fitted:
        context = None if given is None else read_table(given)
        return fit_table(read_table(tmp_path / "table.npy"), settings=settings(**options), context=context)

    plain = fitted()
    map_everything(monkeypatch, tmp_path)
    mapped = fitted()
    ours, theirs = (fit.model.flow.state_dict() for fit in (mapped, plain))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert mapped.model.schema == plain.model.schema
    assert [without_seconds(step) for step in mapped.steps] == [without_seconds(step) for step in plain.steps]
    assert without_seconds(mapped.results) == without_seconds(plain.results)
    assert mapped.model.facts == plain.model.facts
    for name, rows in vars(plain.split).items():
        assert_array_equal(getattr(mapped.split, name), rows)


@pytest.mark.parametrize("interrupted", [False, True])
def test_nothing_is_left_of_the_rows_on_the_disk(
    interrupted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, found = map_everything(monkeypatch, tmp_path), []

    def progress(record: dict[str, Any]) -> None:
        found.append((mapped_files(folder), len(list(folder.iterdir()))))
        if interrupted and record.get("block") == 2:
            raise KeyboardInterrupt

    table = read_table(counted())
    before = mapped_files(folder)
    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            fit_table(table, settings=settings(), progress=progress)
    else:
        fit_table(table, settings=settings(), progress=progress)
    assert min(mappings for mappings, _ in found) > before == 1
    assert max(names for _, names in found) == 0
    assert mapped_files(folder) == before
    del table
    assert mapped_files(folder) == 0


# ── the run folder ──


def test_description_recognises_the_table_and_holds_no_row(tmp_path: Path) -> None:
    table, chosen = stored(tmp_path), settings()
    description = describe(table, None, chosen, split_rows(table, chosen))
    assert description["table"] == {
        "path": str(tmp_path / "table.csv"),
        "sha256": table.sha256,
        "rows": 120,
        "columns": ["a", "b"],
    }
    assert str(table.values[0, 0]) not in json.dumps(description)
    assert "path" not in recognise_by(description)["table"]
    assert recognise_by(description)["table"]["sha256"] == table.sha256


def interrupt_after(block: int, tmp_path: Path, chosen: Settings) -> Path:
    """A run that was interrupted when so many blocks were on the disk."""

    def progress(record: dict[str, Any]) -> None:
        if record.get("block", 0) == block:
            raise KeyboardInterrupt

    run = tmp_path / f"interrupted after {block}"
    with pytest.raises(KeyboardInterrupt):
        fit_run(read_table(tmp_path / "table.csv"), run, chosen, progress)
    return run


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
            "max_blocks": 2,
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


def test_gaussian_table_is_fitted_again_on_all_rows_and_judged_as_it_was_before(tmp_path: Path) -> None:
    """Correlated normal rows: no block helps; validation rows that end in the fit do not judge it."""
    rows = np.random.default_rng(1).normal(size=(300, 2)) @ np.array([[1.0, 0.9], [0.0, 0.3]])
    write_table(tmp_path / "table.csv", rows, ["a", "b"])
    table, chosen = read_table(tmp_path / "table.csv"), settings(holdout_fraction=0.0)
    whole = fit_run(table, tmp_path / "run", chosen)
    last = whole.steps[-1]
    assert last["fitted_on"] == "training and validation rows"
    assert any("fitted again on training and validation rows" in note for note in whole.results["notes"])
    expected = np.cov(rows.T, bias=True)
    drawn = whole.model.sample(20_000, seed=0)[0]
    assert np.cov(drawn.T) == pytest.approx(expected, abs=0.03)
    assert whole.results["held_out_on"] == "validation"
    assert whole.results["held_out_nll_nats"] == pytest.approx(last["held_out_nll_data_nats"], abs=1e-5)
    split = split_rows(table, chosen)
    assert len(whole.model.flow) == 1
    final = -whole.model.log_prob(table.take(split.validation)).mean()
    assert final != pytest.approx(last["held_out_nll_data_nats"], abs=1e-5)
    held_out = fit_table(table, settings=settings())
    judged = -held_out.model.log_prob(table.take(split_rows(table, settings()).holdout)).mean()
    assert held_out.results["held_out_nll_nats"] == pytest.approx(judged, abs=1e-5)


def read_steps(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]


def test_decisions_of_a_budget_are_on_record_before_their_step(tmp_path: Path) -> None:
    fit_run(stored(tmp_path), tmp_path / "run", settings(budget=1.0))
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


def test_memory_and_folder_give_the_same_model(tmp_path: Path) -> None:
    table = stored(tmp_path)
    fitted = fit_run(table, tmp_path / "run", settings())
    in_memory: Model = fit_table(table, settings=settings()).model
    assert_allclose(in_memory.log_prob(table), fitted.model.log_prob(table), rtol=0, atol=0)
    with RunFolder.open(tmp_path / "run", "read") as folder:
        assert folder.status == "finished"
        assert folder.results["held_out_nll_nats"] == fitted.results["held_out_nll_nats"]
        assert [record for record in folder.read_records() if record["kind"] == "step"]

"""From a table to a model: what is held out, progress, refusals, and rows larger than the memory."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal

from fitting.quick_fits import (
    BLOCKS,
    fit_run,
    fit_table,
    model_bytes,
    settings,
    stored,
    values,
    without_seconds,
)
from jkoflow.certify import certify
from jkoflow.certify.rows import evidence_of_run, evidence_without
from jkoflow.data import read_table, write_table
from jkoflow.errors import InputError
from jkoflow.fitting import Fitted, describe, encode_rows, recognise_by, split_rows
from jkoflow.flow import log_prob
from jkoflow.model import load_model, save_model
from jkoflow.runs import RunFolder
from oracles.scratch_files import map_everything, mapped_files

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


def test_progress_is_a_start_and_then_every_step() -> None:
    records: list[dict[str, Any]] = []
    fitted = fit_table(read_table(values()), settings=settings(), progress=records.append)
    assert [record["kind"] for record in records] == ["start"] + ["step"] * len(fitted.steps)
    assert records[0]["split"] == split_rows(read_table(values()), settings()).sizes()
    assert records[1:] == fitted.steps
    assert [step["block"] for step in fitted.steps] == list(range(1, len(fitted.steps) + 1))
    assert fitted.steps[0]["planned"] == BLOCKS
    assert all(step["planned"] >= step["block"] for step in fitted.steps)
    jacobian = -np.log(fitted.model.schema.scale).sum()
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
    for name, rows in plain.split.parts().items():
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


def test_dependent_columns_are_told_by_summary_model_and_certificate(tmp_path: Path) -> None:
    """Columns that sum to one: the note, the remedy of the round trip, and all of it after loading."""
    parts = np.random.default_rng(0).dirichlet([4, 3, 2], size=300)
    table = read_table(pd.DataFrame(parts, columns=["sand", "silt", "clay"]))
    fitted = fit_table(table, settings=settings(max_blocks=1))
    (note,) = [note for note in fitted.results["notes"] if "clay = 1 - sand - silt" in note]
    assert note.endswith("drop clay and compute it from the others")
    save_model(fitted.model, tmp_path / "model")
    certificates = certify(evidence_without(load_model(tmp_path / "model"), "none here"))
    assert any("drop clay, fit again" in note for note in certificates.notes)
    trip = next(claim for claim in certificates.claims if claim.claim.startswith("all but a small share"))
    assert trip.verdict == "holds" or "drop clay and fit again" in trip.remedy


def test_fit_of_near_copies_is_resumed_to_the_same_model(tmp_path: Path) -> None:
    """The split that is on record is found again, after an interruption and by the certificate."""
    base = np.random.default_rng(11).normal(size=(60, 2))
    rows = np.repeat(base, 4, axis=0) + 1e-6 * np.random.default_rng(12).normal(size=(240, 2))
    write_table(tmp_path / "table.csv", rows, ["a", "b"])
    table = read_table(tmp_path / "table.csv")

    def stop(record: dict[str, Any]) -> None:
        if record["kind"] == "step":
            raise KeyboardInterrupt

    whole = fit_run(table, tmp_path / "whole", settings())
    with pytest.raises(KeyboardInterrupt):
        fit_run(table, tmp_path / "cut", settings(), stop)
    fit_run(table, tmp_path / "cut", settings())
    assert model_bytes(tmp_path / "cut") == model_bytes(tmp_path / "whole")
    with RunFolder.open(tmp_path / "whole", "resume") as folder:
        evidence = evidence_of_run(folder, whole.model)
    nll = -log_prob(whole.model.flow, evidence.held_out.x).mean()
    told = whole.results["held_out_nll_nats"] - np.log(whole.model.schema.scale).sum()
    assert float(nll) == pytest.approx(told, abs=1e-6)

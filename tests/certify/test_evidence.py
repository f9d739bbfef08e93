"""The rows of a certificate: the fit's own numbers, rows before smoothing, repeats, and notes on them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from jkoflow.blocks import AffineBlock
from jkoflow.certify import Evidence, certify
from jkoflow.certify.fit_rows import FitRows, SeenRows
from jkoflow.certify.notes import notes_on
from jkoflow.certify.rows import evidence_from, evidence_without, model_remark
from jkoflow.config import Settings
from jkoflow.data import Schema, Table, read_table
from jkoflow.fitting import Split
from jkoflow.flow import Flow
from jkoflow.laws import StandardNormal
from jkoflow.model import Model, save_model
from jkoflow.particles import Particles
from jkoflow.particles.smoothing import Smoothing

TIME = 0.3


def counts(n: int = 400, seed: int = 0) -> Table:
    """A continuous column, and one of counts."""
    rng = np.random.default_rng(seed)
    return read_table(np.column_stack([rng.normal(3.0, 2.0, n), rng.poisson(5.0, n)]))


def model_of(table: Table, context: Table | None = None, *, time: float | None = None) -> Model:
    """The identity on the standardised columns."""
    facts = {} if time is None else {"smoothing": {"kind": "brownian", "time": time}}
    given = None if context is None else Schema.fit(context, role="context")
    identity = AffineBlock(dim=table.dim)
    flow = Flow(StandardNormal(table.dim)).then(identity)
    return Model(Schema.fit(table), flow, Settings(seed=4), given, facts)


def test_rows_before_smoothing_are_of_the_same_dequantisation() -> None:
    """Smoothed minus unsmoothed is Gaussian of variance 2t; without smoothing the rows are the unsmoothed."""
    table = counts()
    evidence = evidence_from(model_of(table, time=TIME), table, stream="holdout")
    plain = evidence_from(model_of(table), table, stream="holdout")
    assert plain.unsmoothed is None
    assert plain.smoothing is None
    assert evidence.smoothing == Smoothing("brownian", time=TIME)
    assert torch.equal(evidence.unsmoothed.x, plain.held_out.x)
    noise = evidence.held_out.x - evidence.unsmoothed.x
    assert float(noise.std()) == pytest.approx(math.sqrt(2 * TIME), rel=0.1)
    column = model_of(table).schema.columns[1]
    off = plain.held_out.x[:, 1].numpy() * column.scale + column.location - table.values[:, 1]
    assert evidence.dequantised == plain.dequantised == ("x1",)
    assert 0.45 < np.abs(off).max() <= 0.5 + 1e-5


def test_noise_is_named_by_the_stream() -> None:
    table = counts()
    model = model_of(table)
    one, same, other = (
        evidence_from(model, table, stream=name) for name in ("certify", "certify", "holdout")
    )
    assert torch.equal(one.held_out.x, same.held_out.x)
    assert not torch.equal(one.held_out.x, other.held_out.x)
    assert one.seed == 4


def split_of(train: list[int], validation: list[int]) -> Split:
    parts = (np.array(rows, dtype=np.int64) for rows in (train, validation, []))
    return Split(*parts)


def test_repeats_are_exact_rows_of_training_or_validation() -> None:
    table = read_table(np.arange(40.0).reshape(20, 2))
    seen = FitRows.of(table, None, split_of([0, 1, 2], [3]))
    given = np.concatenate([table.values[[0, 3, 3, 7]], table.values[[1]] + 1e-13, -table.values[[2]]])
    evidence = evidence_from(model_of(table), read_table(given), stream="certify", fit_rows=seen)
    assert (evidence.seen.exact, evidence.seen.near) == (3, 0)
    assert evidence_from(model_of(table), table, stream="certify").seen is None


def test_minus_zero_is_zero_and_columns_do_not_commute() -> None:
    table = read_table(np.array([[0.0, 1.0], [2.0, 3.0]]))
    seen = FitRows.of(table, None, split_of([0, 1], []))
    wide = read_table(np.random.default_rng(0).normal(size=(20, 2)))
    given = read_table(np.array([[-0.0, 1.0], [3.0, 2.0]]))
    assert evidence_from(model_of(wide), given, stream="certify", fit_rows=seen).seen.exact == 1


def test_a_row_is_a_repeat_only_under_its_own_context() -> None:
    table, context = read_table(np.arange(20.0)[:, None]), read_table(np.arange(20.0)[::-1, None].copy())
    model = model_of(table, context)
    seen = FitRows.of(table, context, split_of(list(range(10)), [10]))

    def repeats(given: Table) -> int:
        return evidence_from(model, table, given, stream="certify", fit_rows=seen).seen.exact

    assert repeats(context) == 11
    assert repeats(read_table(context.values + 0.5)) == 0
    assert repeats(context.take(slice(4, 5))) == 1


def test_chance_is_what_the_fit_does_among_its_own_rows() -> None:
    """Nine values of a die's two throws: rows recur by chance, and that counts for nothing."""
    rng = np.random.default_rng(0)
    throws = [read_table(rng.integers(1, 4, size=(400, 2)).astype(float)) for _ in range(2)]
    seen = FitRows.of(throws[0], None, split_of(list(range(300)), [300])).seen_of(throws[1], None)
    assert (seen.exact, seen.by_chance) == (400, 1.0)
    assert seen.share(400) == 0.0
    fresh = [read_table(rng.normal(size=(400, 2))) for _ in range(2)]
    known = FitRows.of(fresh[0], None, split_of(list(range(300)), [300]))
    assert known.seen_of(fresh[1], None) == SeenRows(0, 0, 0.0)
    assert known.seen_of(fresh[0], None).share(400) == pytest.approx(301 / 400)
    jittered = read_table(fresh[0].values + 1e-7 * rng.normal(size=(400, 2)))
    assert known.seen_of(jittered, None).near == 301


def test_witnesses_learn_from_rows_that_the_fit_looked_at() -> None:
    """Some of them, as the model sees them, by their weights; none where each row has its own context."""
    table = read_table(np.random.default_rng(0).normal(5.0, 3.0, (400, 2)))
    model, split = model_of(table), split_of(list(range(100, 300)), [300])
    found = evidence_from(
        model, table.take(slice(0, 100)), stream="certify", fit_rows=FitRows.of(table, None, split)
    ).fitted_rows
    assert found is not None
    expected = torch.as_tensor(model.schema.standardise(table.values[100:301]))
    torch.testing.assert_close(found.sort(dim=0).values, expected.to(found).sort(dim=0).values)
    repeated = table.take(np.array([*range(50), 120]))
    fit_rows = FitRows.of(table, None, split)
    assert evidence_from(model, repeated, stream="certify", fit_rows=fit_rows).fitted_rows is None
    weight = np.where(np.arange(400) < 200, 1.0, 0.0)
    assert len(FitRows.of(table, None, split, weight).sample(1000, seed=0)) == 100
    assert len(FitRows.of(table, None, split).sample(50, seed=0)) == 50
    given = read_table(np.arange(400.0)[:, None])
    known = FitRows.of(table, given, split)
    assert (
        evidence_from(model_of(table, given), table, given, stream="certify", fit_rows=known).fitted_rows
        is None
    )


# ── the notes ──


def test_notes_tell_noise_smoothing_and_repeats() -> None:
    table = counts()
    model = model_of(table, time=TIME)
    seen = FitRows.of(table, None, split_of([0, 1], [2]))
    evidence = evidence_from(model, table, stream="certify", fit_rows=seen)
    repeats, dequantised, smoothed = notes_on(evidence)
    assert repeats.startswith("3 of 400 held-out rows")
    assert "flatter the model" in repeats
    assert "1 column " in dequantised
    assert "x1" in dequantised
    assert f"brownian of time {TIME:g}" in smoothed
    assert f"at most {math.sqrt(2 * TIME * 2):.3g} (W2, standardised)" in smoothed


def test_notes_without_repeats_do_not_warn_and_say_what_is_not_known() -> None:
    rows = Particles(torch.zeros(5, 2))
    evidence = Evidence(Flow(StandardNormal(2)), rows, seen=SeenRows(0))
    assert notes_on(evidence) == ("0 of 5 held-out rows occur exactly among the rows of the fit",)
    assert "is not known" in notes_on(replace(evidence, seen=None))[0]
    assert notes_on(Evidence(Flow(StandardNormal(2)), None)) == ()


def test_certificates_carry_the_notes() -> None:
    model = model_of(counts())
    evidence = replace(evidence_without(model, "there were none"), remarks=("first", "second"))
    assert certify(evidence).notes == notes_on(evidence)
    assert notes_on(evidence)[-2:] == ("first", "second")
    assert evidence_without(model, "there were none").remarks == ("no held-out rows: there were none",)


def test_remark_tells_models_apart(tmp_path: Path) -> None:
    model = model_of(counts())
    save_model(model, tmp_path / "a")
    save_model(model, tmp_path / "b")
    other = AffineBlock(dim=2, offset=torch.ones(2))
    save_model(replace(model, flow=Flow(StandardNormal(2)).then(other)), tmp_path / "c")
    assert model_remark(tmp_path / "a") == model_remark(tmp_path / "b") != model_remark(tmp_path / "c")

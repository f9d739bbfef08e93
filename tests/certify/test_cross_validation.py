"""Small tables: every row under a model that was fitted without it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from jkoflow import JKOFlow
from jkoflow.certify import cross_validation
from jkoflow.certify.cross_validation import with_cross_validation
from jkoflow.certify.fit_rows import FittedTable
from jkoflow.certify.kl import bracket
from jkoflow.certify.rows import evidence_from, evidence_without, held_out_evidence
from jkoflow.config import Settings
from jkoflow.data import read_table
from jkoflow.fitting import fit_table, split_rows
from oracles.quick_critics import use_quick_critics
from oracles.quick_training import use_quick_recipe

pytestmark = pytest.mark.cross_validation

N = 150


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    use_quick_recipe(monkeypatch)
    use_quick_critics(monkeypatch)


def fitted(n: int = N, **options: object) -> FittedTable:
    table = read_table(np.random.default_rng(0).normal(size=(n, 2)))
    settings = Settings(max_blocks=1, seed=3, **options)
    return FittedTable(table, None, None, settings, split_rows(table, settings))


def test_each_row_is_judged_once_by_a_model_of_the_others() -> None:
    given = fitted()
    model = fit_table(given.table, settings=given.settings).model
    evidence = with_cross_validation(evidence_without(model, "none"), given)
    parts = evidence.cross_validated
    assert sum(len(part.held_out) for part in parts) == len(evidence.pooled.held_out) == N
    rows = torch.cat([part.held_out.x for part in parts])
    assert len(torch.unique(rows, dim=0)) == N
    assert "mean of 5 models" in evidence.remarks[-1]
    left_out = cross_validation._fifths(given.table, 3)[2]
    others = given.table.take(np.setdiff1d(np.arange(N), left_out))
    alone = fit_table(others, settings=given.settings.with_options(holdout_fraction=0.0)).model
    expected = evidence_from(alone, given.table.take(left_out), stream="x")
    torch.testing.assert_close(parts[2].held_out.x, expected.held_out.x)
    found, claims = bracket(evidence)
    assert claims[0].rows == N
    assert found.lower is not None
    assert found.upper is not None
    assert 0 <= found.lower <= found.estimate <= found.upper < 2


def test_witnesses_learn_nothing_from_rows_that_they_are_judged_on() -> None:
    """The rows of the kept model's fit are those of the five folds."""
    given = fitted(holdout_fraction=0.1)
    model = fit_table(given.table, settings=given.settings).model
    few = held_out_evidence(model, given)
    assert few.fitted_rows is not None
    assert with_cross_validation(few, given).fitted_rows is None


def test_copies_are_left_out_together() -> None:
    table = read_table(np.repeat(np.random.default_rng(0).normal(size=(50, 2)), 3, axis=0))
    for rows in cross_validation._fifths(table, 0):
        assert len(np.unique(table.values[rows], axis=0)) * 3 == len(rows)


@pytest.mark.parametrize("n", [99, 1001])
def test_tables_of_other_sizes_are_left_as_they_are(n: int) -> None:
    given = fitted(n)
    model = fit_table(given.table, settings=given.settings).model
    evidence = evidence_without(model, "none")
    assert with_cross_validation(evidence, given) is evidence


def test_enough_rows_set_aside_need_no_other_fit() -> None:
    given = fitted(300)
    model = fit_table(given.table, settings=given.settings).model
    evidence = evidence_from(model, given.table.take(slice(0, 100)), stream="x")
    assert with_cross_validation(evidence, given) is evidence
    fewer = evidence_from(model, given.table.take(slice(0, 99)), stream="x")
    assert with_cross_validation(fewer, given).cross_validated


def test_what_cannot_be_fitted_is_told() -> None:
    given = fitted()
    model = fit_table(given.table, settings=given.settings).model
    refused = replace(given, settings=replace(given.settings, gamma={"kind": "none"}))
    evidence = with_cross_validation(evidence_without(model, "none"), refused)
    assert not evidence.cross_validated
    assert "cross-validation was not possible" in evidence.remarks[-1]


def test_estimator_and_150_rows() -> None:
    model = JKOFlow(max_blocks=1, random_state=0).fit(np.random.default_rng(1).normal(size=(N, 2)))
    found = model.certify()
    assert found.kl.upper is not None
    assert any("mean of 5 models" in note for note in found.notes)

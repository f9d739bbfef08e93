"""What a fit tells of itself: held-out NLL beside a Gaussian's, and on which rows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf

from fitting.quick_fits import fit_run, fit_table, settings, values
from jkoflow.data import read_table, write_table
from jkoflow.fitting import split_rows
from jkoflow.fitting.results import _standard_error
from jkoflow.particles import Particles


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
    gaussian += np.log(fitted.model.schema.scale).sum()
    assert results["gaussian_nll_nats"] == pytest.approx(gaussian.mean(), abs=1e-4)
    assert results["gaussian_minus_ours_nats"] == pytest.approx((gaussian - nats).mean(), abs=1e-4)
    assert results["round_trip_error"]["largest"] < 1e-4
    assert results["blocks"] == len(fitted.model.flow)


def test_without_holdout_the_result_is_on_validation_and_says_so() -> None:
    results = fit_table(read_table(values()), settings=settings(holdout_fraction=0.0)).results
    assert results["held_out_on"] == "validation"


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


def test_held_out_nll_of_near_copies_is_that_of_fresh_rows() -> None:
    """80 normal rows, each eight times with a jitter of 1e-6: what is claimed is what fresh rows give."""
    base = np.random.default_rng(11).normal(size=(80, 2))
    rows = np.repeat(base, 8, axis=0) + 1e-6 * np.random.default_rng(12).normal(size=(640, 2))
    fresh = read_table(np.random.default_rng(99).normal(size=(4000, 2)))
    fitted = fit_table(read_table(rows), settings=settings(max_blocks=6))
    claimed, error = (fitted.results[f"held_out_nll_{name}"] for name in ("nats", "se_nats"))
    assert abs(claimed + fitted.model.log_prob(fresh).mean()) < 3 * error
    assert 0.1 < error < 1.0  # of eight groups, not of 64 rows
    assert any("80 groups of near copies" in note for note in fitted.results["notes"])


def test_standard_error_of_groups_is_that_of_their_means() -> None:
    nats = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows, group = Particles(torch.zeros(12, 1)), np.repeat(np.arange(4), 3)
    means = nats.reshape(4, 3).mean(dim=1)
    assert _standard_error(rows, nats, group) == pytest.approx(float(means.std() / 2))
    single = _standard_error(rows, nats, np.arange(12))
    assert single == pytest.approx(_standard_error(rows, nats, None))

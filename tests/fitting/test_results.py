"""What a fit tells of itself: held-out NLL beside a Gaussian's, and on which rows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf

from fitting.quick_fits import fit_run, fit_table, settings, values
from jkoflow.blocks import AffineBlock
from jkoflow.data import read_table, write_table
from jkoflow.errors import NumericalError
from jkoflow.fitting import split_rows
from jkoflow.fitting.results import _standard_error, check_cell_mass
from jkoflow.fitting.rows import particles_of
from jkoflow.flow import Flow
from jkoflow.flow.cells import log_cell_mass
from jkoflow.laws import StandardNormal
from jkoflow.model import load_model
from jkoflow.particles import Particles
from jkoflow.runs import RunFolder
from jkoflow.world import ALONE


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


def test_values_that_float32_cannot_tell_apart_are_fitted_in_float64(tmp_path: Path) -> None:
    """A note tells it, the run's own settings stay what was asked for, and the fit is resumed as it was."""
    rows = np.random.default_rng(0).gamma(0.2, size=(400, 1)).astype(np.float32)
    write_table(tmp_path / "table.csv", rows.astype(float), ["a"])
    table, chosen = read_table(tmp_path / "table.csv"), settings(max_blocks=1)
    fitted = fit_run(table, tmp_path / "run", chosen)
    assert fitted.model.settings.dtype == "float64"
    assert any(note.startswith("computed in float64, not float32") for note in fitted.results["notes"])
    with RunFolder.open(tmp_path / "run", "resume") as folder:
        assert folder.description["settings"]["dtype"] == "float32"
    loaded = load_model(tmp_path / "run" / "model")
    np.testing.assert_array_equal(loaded.log_prob(table), fitted.model.log_prob(table))
    train = particles_of(loaded, table, None, None, fitted.split, ALONE)["train"]
    assert log_cell_mass(loaded.flow, train.x) < 0


def test_no_model_is_kept_whose_cells_hold_more_than_one() -> None:
    rows = Particles(torch.tensor([[0.0], [0.5], [0.5], [1.0]]))
    matrix, offset = torch.tensor([[1e12]], dtype=torch.float64), torch.tensor([-0.5e12], dtype=torch.float64)
    spike = Flow(StandardNormal(1), [AffineBlock(dim=1, matrix=matrix, offset=offset).float()])
    with pytest.raises(NumericalError, match=r"e\^9.* on the float32 cells around 4 training rows") as caught:
        check_cell_mass(spike, rows)
    assert "float64" in str(caught.value)
    check_cell_mass(Flow(StandardNormal(1)), rows)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("columns", [1, 2])
def test_a_spike_is_fitted_as_a_density(dtype: type[np.floating], columns: int) -> None:
    """Gamma(0.05), alone and beside a normal column: the cells around all its rows hold less than one."""
    rows = np.random.default_rng(0).gamma(0.05, size=(400, 1)).astype(dtype)
    rows = np.column_stack([rows, np.random.default_rng(1).normal(size=(400, columns - 1)).astype(dtype)])
    fitted = fit_table(read_table(rows), settings=settings(max_blocks=2))
    z = torch.as_tensor(fitted.model.schema.standardise(rows)).to(fitted.model.like)
    assert log_cell_mass(fitted.model.flow, z) < 0
    if columns == 1:
        x = np.unique(rows)
        above, below = (np.nextafter(x, dtype(end)).astype(float) for end in (np.inf, -np.inf))
        nats = fitted.model.log_prob(read_table(x[:, None]))
        assert np.exp(nats) @ ((above - below) / 2) < 1

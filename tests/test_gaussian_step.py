"""The closed-form free step: what it whitens, which covariance it takes, and the step on all rows."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from jkoflow.fit import FitState, initial_state
from jkoflow.flow.likelihood import log_prob
from jkoflow.gaussian_step import gaussian_step, gaussian_step_on_all_rows
from jkoflow.laws import Gaussian, StandardNormal
from jkoflow.particles import Particles
from jkoflow.runtime import Runtime
from oracles.blocks import points

RUNTIME = Runtime(0, dtype=torch.float64)


def correlated(n: int, dim: int, seed: int) -> Particles:
    mixing = points(dim, dim, seed=9) + 2 * torch.eye(dim, dtype=torch.float64)
    return Particles(points(n, dim, seed=seed) @ mixing + 0.3)


def state_of(n: int, dim: int = 3, n_validation: int = 200) -> FitState:
    return initial_state(StandardNormal(dim), correlated(n, dim, 1), correlated(n_validation, dim, 2))


def gaussian_of(x: torch.Tensor) -> Gaussian:
    return Gaussian(x.mean(dim=0), torch.cov(x.T, correction=0))


def test_flow_is_the_gaussian_of_the_training_rows() -> None:
    state = state_of(2000)
    after, step = gaussian_step(state, RUNTIME)
    x = points(50, 3, seed=5)
    assert step.info["covariance"] == "empirical"
    assert (step.info["finished_on"], step.info["block"]) == ("closed_form", 1)
    assert (after.number, after.moved) == (1, ())
    torch.testing.assert_close(log_prob(after.flow, x), gaussian_of(state.train.x).log_prob(x))
    assert after.nll == pytest.approx(-float(gaussian_of(state.train.x).log_prob(state.validation.x).mean()))
    torch.testing.assert_close(torch.cov(after.train.x.T, correction=0), torch.eye(3, dtype=torch.float64))


def test_few_rows_get_the_shrunk_covariance() -> None:
    """As many rows as columns: the empirical covariance has no inverse."""
    after, step = gaussian_step(state_of(12, dim=12), RUNTIME)
    assert step.info["covariance"] == "shrunk"
    assert math.isfinite(after.nll)


def test_the_step_on_all_rows_is_their_gaussian() -> None:
    state = replace(state_of(400), number=4, nll=1.25)
    after, last = gaussian_step_on_all_rows(state, RUNTIME, "empirical")
    x, seen = points(50, 3, seed=5), torch.cat([state.train.x, state.validation.x])
    torch.testing.assert_close(log_prob(after.flow, x), gaussian_of(seen).log_prob(x))
    assert (len(after.flow), after.number, last.info["block"]) == (1, 5, 5)
    assert last.info["fitted_on"] == "training and validation rows"


def test_no_row_is_called_held_out_that_the_step_was_fitted_on() -> None:
    after, last = gaussian_step_on_all_rows(replace(state_of(60), nll=1.25), RUNTIME, "shrunk")
    assert after.nll == last.info["held_out_nll_nats"] == 1.25
    assert last.info["gain_nats"] is None
    assert last.info["held_out_nll_se_nats"] is None


def test_the_other_covariance_serves_where_the_chosen_one_has_no_inverse() -> None:
    """Twelve columns, ten rows: they span nine directions."""
    state = state_of(5, dim=12, n_validation=5)
    after, _ = gaussian_step_on_all_rows(state, RUNTIME, "empirical")
    assert bool(log_prob(after.flow, points(5, 12)).isfinite().all())

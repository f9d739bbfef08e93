"""The closed-form free step: what it whitens, which covariance it takes, and the step on all rows."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from jkoflow.flow import log_prob
from jkoflow.journal import Taken
from jkoflow.laws import Gaussian
from jkoflow.particles import Particles
from jkoflow.runtime import Runtime
from jkoflow.steps import State
from jkoflow.steps.gaussian import (
    Whitening,
    best_whitening,
    take_closed_form,
    take_gaussian,
    whitening_of_all_rows,
)
from oracles.blocks import points
from oracles.jobs import start_state

RUNTIME, LEAST = Runtime(0, dtype=torch.float64), 1e-10


def whitened(state: State) -> tuple[State, Taken]:
    return take_closed_form(
        state, best_whitening(state, RUNTIME, least_variance=LEAST).solution, round_number=-1
    )


def of_all_rows(state: State, covariance: str, nll: float = 1.25) -> tuple[State, Taken]:
    """As a fit ends where no block was better than a Gaussian of that held-out NLL."""
    best = best_whitening(state, RUNTIME, least_variance=LEAST)
    before = Whitening(best.block, best.covariance, replace(best.after, nll=nll))
    solution = whitening_of_all_rows(state, RUNTIME, covariance, least_variance=LEAST)
    return take_gaussian(state, solution, before=before)


def correlated(n: int, dim: int, seed: int) -> Particles:
    mixing = points(dim, dim, seed=9) + 2 * torch.eye(dim, dtype=torch.float64)
    return Particles(points(n, dim, seed=seed) @ mixing + 0.3)


def state_of(n: int, dim: int = 3, n_validation: int = 200) -> State:
    return start_state(correlated(n, dim, 1), correlated(n_validation, dim, 2))


def gaussian_of(x: torch.Tensor) -> Gaussian:
    return Gaussian(x.mean(dim=0), torch.cov(x.T, correction=0))


def test_flow_is_the_gaussian_of_the_training_rows() -> None:
    state = state_of(2000)
    after, step = whitened(state)
    x = points(50, 3, seed=5)
    assert step.log["covariance"] == "empirical"
    assert (step.log["finished_on"], step.log["block"]) == ("closed_form", 1)
    assert (after.number, after.moved) == (1, ())
    torch.testing.assert_close(log_prob(after.flow, x), gaussian_of(state.train.x).log_prob(x))
    assert after.nll == pytest.approx(-float(gaussian_of(state.train.x).log_prob(state.validation.x).mean()))
    torch.testing.assert_close(torch.cov(after.train.x.T, correction=0), torch.eye(3, dtype=torch.float64))


def test_few_rows_get_the_shrunk_covariance() -> None:
    """As many rows as columns: the empirical covariance has no inverse."""
    after, step = whitened(state_of(12, dim=12))
    assert step.log["covariance"] == "shrunk"
    assert math.isfinite(after.nll)


def test_the_step_on_all_rows_is_their_gaussian() -> None:
    state = replace(state_of(400), number=4)
    after, last = of_all_rows(state, "empirical")
    x, seen = points(50, 3, seed=5), torch.cat([state.train.x, state.validation.x])
    torch.testing.assert_close(log_prob(after.flow, x), gaussian_of(seen).log_prob(x))
    assert (len(after.flow), after.number, last.log["block"]) == (1, 5, 5)
    assert last.log["fitted_on"] == "training and validation rows"


def test_no_row_is_called_held_out_that_the_step_was_fitted_on() -> None:
    after, last = of_all_rows(state_of(60), "shrunk")
    assert after.nll == last.log["held_out_nll_nats"] == 1.25
    assert last.log["gain_nats"] is None
    assert after.judged is not None
    assert last.log["held_out_nll_se_nats"] is None


def test_the_other_covariance_serves_where_the_chosen_one_has_no_inverse() -> None:
    """Twelve columns, ten rows: they span nine directions."""
    state = state_of(5, dim=12, n_validation=5)
    after, _ = of_all_rows(state, "empirical")
    assert bool(log_prob(after.flow, points(5, 12)).isfinite().all())

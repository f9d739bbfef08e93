"""The fold over a schedule: the stop rule against closed forms, and the free last step, always made."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jkoflow.config import Settings
from jkoflow.exact.gaussian import GaussianState, Quadratic, jko_step, kl, w2
from jkoflow.methods.given_steps import fold_rounds
from jkoflow.recipe import Recipe
from jkoflow.schedule import resolve_schedule
from oracles.jobs import Recorded, job_of, start_state
from oracles.solvers import RecordingSolver, gaussian_particles


def folded(gamma: object, max_blocks: int) -> tuple[Recorded, str]:
    """The fold of exact Gaussian steps over the schedule that `gamma` names, all kept; and why it ended."""
    schedule = resolve_schedule(gamma, max_blocks=max_blocks, particles=None, generator=None)
    recorded = Recorded()
    state = start_state(gaussian_particles(2000, 2), gaussian_particles(500, 2, seed=1))
    job = job_of(Settings(max_blocks=max_blocks), recorded.journal(), Recipe())
    return recorded, fold_rounds(state, schedule, job, RecordingSolver(), keep=None).ended


def test_short_first_step_is_not_taken_for_convergence_and_the_free_step_is_made() -> None:
    """At gamma = 0.002 a step moves next to nothing, far from q; the free step follows the rule."""
    recorded, why = folded({"kind": "geometric", "first": 0.002, "growth": 2, "free_last": True}, 16)
    logs = recorded.logs
    assert logs[0]["transport_ratio"] < 1e-3
    assert 8 < len(logs) < 16
    assert logs[-1]["gamma"] is None
    assert all(log["gradient_ratio"] >= 0.01 for log in logs[:-2])
    assert logs[-2]["gradient_ratio"] < 0.01
    assert why.startswith(f"the stop rule: step {len(logs) - 1} leaves a squared gradient of")


def test_schedule_that_is_at_its_end_says_so() -> None:
    assert folded({"kind": "constant", "value": 0.1}, 3)[1] == "its schedule of 3 steps is at its end"


@pytest.mark.parametrize("gamma", [0.01, 0.3, 2.0])
def test_movement_over_gamma_bounds_distance_gradient_and_kl_after_an_exact_step(gamma: float) -> None:
    """W2(p_n, q) and |grad G(p_n)| <= W2(p_{n-1}, p_n)/gamma, and KL(p_n|q) <= half its square."""
    potential, q = Quadratic.standard(2), GaussianState(np.zeros(2), np.eye(2))
    before = GaussianState(np.array([1.5, -0.4]), np.diag([0.09, 2.0]))
    after = jko_step(before, gamma, potential)
    bound = w2(before, after) / gamma
    gradient = after.covariance @ np.linalg.matrix_power(np.eye(2) - np.linalg.inv(after.covariance), 2)
    assert math.hypot(*after.mean) ** 2 + np.trace(gradient) == pytest.approx(bound**2)
    assert w2(after, q) <= bound
    assert kl(after, potential) <= bound**2 / 2
    gain = kl(before, potential) - kl(after, potential)
    assert gain / gamma >= bound**2


def test_gradient_is_told_by_movement_and_gain() -> None:
    """The record tells the larger of the two, which is what the rule compares."""
    recorded, _ = folded({"kind": "constant", "value": 0.5}, 30)
    for log in recorded.logs:
        size = log["transport"] / log["transport_ratio"]
        expected = max(log["transport"] / 0.25, log["gain_nats"] / 0.5) / size
        assert log["gradient_ratio"] == pytest.approx(expected)

"""What is computed of trained blocks agrees with closed forms for Gaussians and affine blocks."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest
import torch

from experiments.scripts import load
from jkoflow.blocks import AffineBlock
from jkoflow.exact import GaussianState, Quadratic, jko_step, kl, transport_map
from jkoflow.flow import Flow
from jkoflow.laws import Gaussian, StandardNormal

MEAN, COVARIANCE = np.array([1.0, -0.5]), np.array([[1.2, 0.4], [0.4, 0.5]])
LAW = Gaussian(torch.tensor(MEAN), torch.tensor(COVARIANCE))
GAMMAS = (0.3, 1.7)


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("learned", monkeypatch)


def exact_flow(gammas: tuple[float, ...], shift: float = 0.0) -> tuple[Flow, GaussianState]:
    """The exact JKO steps of LAW as affine blocks, the last image moved by `shift` in each coordinate."""
    state, flow = GaussianState(MEAN, COVARIANCE), Flow(StandardNormal(2))
    for number, gamma in enumerate(gammas, start=1):
        after = jko_step(state, gamma, Quadratic.standard(2))
        step = transport_map(state, after)
        offset = step.target - step.matrix @ step.source + (shift if number == len(gammas) else 0.0)
        flow = flow.then(
            AffineBlock(dim=2, gamma=gamma, matrix=torch.tensor(step.matrix), offset=torch.tensor(offset))
        )
        state = after
    return flow, state


def draws(seed: int, n: int = 4000) -> torch.Tensor:
    return LAW.sample(n, torch.Generator().manual_seed(seed))


def test_exact_steps_have_no_first_order_error(learned: ModuleType, seed: int) -> None:
    flow, _ = exact_flow(GAMMAS)
    assert max(learned.first_order_errors(flow, LAW, draws(seed))) < 1e-10


def test_a_shifted_step_has_the_error_of_its_shift(learned: ModuleType, seed: int) -> None:
    """T + c has the score of T at the shifted point, so xi' = c (1 + 1/gamma) everywhere."""
    flow, _ = exact_flow(GAMMAS, shift=0.1)
    expected = math.sqrt(2) * 0.1 * (1 + 1 / GAMMAS[-1])
    assert learned.first_order_errors(flow, LAW, draws(seed))[-1] == pytest.approx(expected, rel=1e-9)


def test_kl_is_that_of_the_pushed_law(learned: ModuleType, seed: int) -> None:
    """Lemma 5.1: KL(p_0 | q_0) = KL(p_N | q), here of Gaussians in closed form."""
    flow, last = exact_flow(GAMMAS)
    value, error = learned.kl_to_truth(flow, LAW, draws(seed, 20_000))
    expected = kl(last, Quadratic.standard(2))
    assert abs(value - expected) < 4 * error
    assert error < 0.2 * expected


def test_gradient_is_the_score(learned: ModuleType, seed: int) -> None:
    x = draws(seed, 50)
    score = torch.tensor(-np.linalg.solve(COVARIANCE, (x.numpy() - MEAN).T).T)
    assert learned.relative_error(learned.gradient(LAW.log_prob, x), score) < 1e-10
    assert learned.relative_error(2 * score, score) == pytest.approx(1.0)

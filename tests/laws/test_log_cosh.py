"""The log-cosh law: its ends, what it refuses, and a fit to it held to the 1-D engine."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import ndtri

from jkoflow.config import Settings
from jkoflow.errors import InputError
from jkoflow.exact.functional import kl_divergence, log_cosh, quadratic
from jkoflow.exact.quantile import QuantileLaw, normal_levels
from jkoflow.exact.quantile_step import evaluate, quantile_step
from jkoflow.laws import Gaussian, LogCosh
from jkoflow.particles import Particles
from oracles.jobs import Recorded, run_method, start_state
from oracles.quick_training import quick_recipe

CURVATURE, WEIGHT, WIDTH, GAMMA = 0.5, 1.0, 1.0, 0.4


def test_without_log_cosh_it_is_the_gaussian() -> None:
    law = LogCosh(2, curvature=0.25, weight=0.0)
    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    normal = Gaussian([0.0, 0.0], 4 * torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(law.log_prob(x), normal.log_prob(x), atol=1e-9, rtol=0)


def test_without_curvature_it_is_the_hyperbolic_secant_law() -> None:
    """w = 1, l = 1: Z = ∫ dt / cosh t = pi."""
    law = LogCosh(3, curvature=0.0)
    assert law.lam is None
    assert law.log_normaliser == pytest.approx(3 * math.log(math.pi), abs=1e-9)


@pytest.mark.parametrize(
    "numbers",
    [
        {"dim": 0},
        {"dim": 1, "curvature": -1.0},
        {"dim": 1, "curvature": 0.0, "weight": 0.0},
        {"dim": 1, "width": 0.0},
        {"dim": 1, "weight": math.nan},
    ],
)
def test_wrong_numbers_are_refused(numbers: dict[str, float]) -> None:
    with pytest.raises(InputError, match="expected"):
        LogCosh(**numbers)  # type: ignore[arg-type]


def test_a_fitted_step_is_the_step_of_the_1d_engine() -> None:
    """Mean, standard deviation and KL after one step from N(1.5, 0.6²), within what 4,000 rows allow."""
    levels = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    rows = Particles(torch.as_tensor(1.5 + 0.6 * ndtri(levels.numpy()), dtype=torch.float32)[:, None])
    settings = Settings(
        objective="jko",
        gamma={"kind": "constant", "value": GAMMA, "stop_ratio": None},
        max_blocks=1,
        law="log_cosh",
    )
    law = LogCosh(1, curvature=CURVATURE, weight=WEIGHT, width=WIDTH)
    start = start_state(rows, rows, law)
    last = run_method(start, settings, Recorded(), quick_recipe(updates=400)).last

    before = QuantileLaw.from_quantiles(lambda u: 1.5 + 0.6 * ndtri(u), normal_levels(200))
    functional = kl_divergence(
        lambda x: quadratic(CURVATURE)(x) + log_cosh(WEIGHT, width=WIDTH)(x), lam=CURVATURE
    )
    after = quantile_step(before, GAMMA, functional).law
    pushed = last.flow.push(rows.x).double()
    assert float(pushed.mean()) == pytest.approx(after.mean, abs=0.02)
    assert float(pushed.std()) == pytest.approx(math.sqrt(after.variance), abs=0.02)
    z, log_det = last.flow.push_with_log_det(rows.x)
    entropy = 0.5 * (1 + math.log(2 * math.pi)) + math.log(0.6)
    kl_nats = float((-log_det.double() + law.potential(z.double())).mean()) - entropy + law.log_normaliser
    assert kl_nats == pytest.approx(evaluate(functional, after), abs=0.01)

"""The path to N(0, I): how far a step goes on it, where it starts and ends, and its velocity."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from jkoflow.exact.gaussian import GaussianState, Quadratic, jko_step
from jkoflow.laws.ornstein_uhlenbeck import ou_angle, ou_path
from oracles.blocks import points


@pytest.mark.parametrize("gamma", [0.01, 0.1, 0.5, 1.5, 10.0])
def test_point_spreads_as_in_the_exact_step(gamma: float) -> None:
    """A point mass gets the variance sin(theta)^2 = gamma/(1 + gamma) that the exact step gives it."""
    point = GaussianState(np.zeros(1), np.zeros((1, 1)))
    exact = float(jko_step(point, gamma, Quadratic.standard(1)).covariance[0, 0])
    assert math.sin(ou_angle(gamma)) ** 2 == pytest.approx(exact) == pytest.approx(gamma / (1 + gamma))
    assert 0 < ou_angle(gamma) < math.pi / 2


def test_free_step_goes_all_the_way() -> None:
    assert ou_angle(math.inf) == math.pi / 2
    x, z = points(5, 2), points(5, 2, seed=1)
    end, _ = ou_path(x, z, torch.ones(5, 1, dtype=torch.float64), ou_angle(math.inf))
    torch.testing.assert_close(end, z, atol=1e-12, rtol=0)


def test_path_starts_at_the_particles_and_ends_on_the_ou_process() -> None:
    """x_1 = e^{-s} x + sqrt(1 - e^{-2s}) z with e^{-s} = cos(theta)."""
    x, z, theta = points(5, 2), points(5, 2, seed=1), ou_angle(0.5)
    start, _ = ou_path(x, z, torch.zeros(5, 1, dtype=torch.float64), theta)
    end, _ = ou_path(x, z, torch.ones(5, 1, dtype=torch.float64), theta)
    assert torch.equal(start, x)
    decay = math.cos(theta)
    torch.testing.assert_close(end, decay * x + math.sqrt(1 - decay**2) * z, atol=1e-12, rtol=0)


def test_velocity_is_the_derivative_of_the_position() -> None:
    x, z, theta = points(5, 2), points(5, 2, seed=1), 0.7
    t = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
    speed = torch.func.jvp(lambda at: ou_path(x, z, at, theta)[0], (t,), (torch.ones_like(t),))[1]
    torch.testing.assert_close(ou_path(x, z, t, theta)[1] * theta, speed, atol=1e-12, rtol=0)

"""The regression start: the OU path of a step, its velocity, and the block that follows it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from jkoflow.blocks import NeuralODEBlock
from jkoflow.blocks.ode.velocity import MLPVelocity
from jkoflow.descent import Descent, DescentSettings
from jkoflow.exact.gaussian import GaussianState, Quadratic, jko_step
from jkoflow.particles import Particles
from jkoflow.warm_start import _opposite_pairs, ou_angle, ou_path, warm_start
from oracles.blocks import generator, points
from oracles.trainers import gaussian_particles


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


def started(seed: int = 0, updates: int = 300) -> tuple[NeuralODEBlock, Descent, Particles]:
    train, validation = gaussian_particles(3000, 2), gaussian_particles(500, 2, seed=1)
    field = MLPVelocity(
        dim=2, width=32, depth=1, n_frequencies=4, frequency_scale=0.3, generator=generator(0)
    )
    field = field.double()
    field.set_reach(train.x, displacement=ou_angle(0.5))
    block = NeuralODEBlock(field, gamma=0.5, steps=2)
    done = warm_start(
        block,
        train,
        validation,
        settings=DescentSettings(updates, 256, 1e-2),
        generator=generator(seed),
        number=1,
        stop=lambda updates: False,
    )
    return block.requires_grad_(False), done, train


def test_started_block_carries_the_particles_along_the_path() -> None:
    """Gaussian particles: the law at the end has mean cos(theta) m and covariance cos^2 S + sin^2 I."""
    block, done, train = started()
    y, x = block.push(train.x), train.x
    theta = ou_angle(0.5)
    cosine, sine = math.cos(theta), math.sin(theta)
    torch.testing.assert_close(y.mean(dim=0), cosine * x.mean(dim=0), atol=0.05, rtol=0)
    expected = cosine**2 * torch.cov(x.T) + sine**2 * torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(torch.cov(y.T), expected, atol=0.1, rtol=0)
    assert done.best < done.first
    assert done.best_update > 0


def test_start_is_the_same_for_the_same_seed() -> None:
    first, second, other = started(1, 20)[0], started(1, 20)[0], started(2, 20)[0]
    x = points(5, 2)
    assert torch.equal(first.push(x), second.push(x))
    assert not torch.equal(first.push(x), other.push(x))


def test_start_stops_when_asked() -> None:
    train = gaussian_particles(200, 2)
    block = NeuralODEBlock(MLPVelocity(dim=2, width=8, generator=generator(0)).double(), gamma=0.5)
    done = warm_start(
        block,
        train,
        train,
        settings=DescentSettings(100, 32, 1e-2, checkpoints=10),
        generator=generator(0),
        number=1,
        stop=lambda updates: updates >= 20,
    )
    assert done.updates == 20


def test_opposite_noises_take_out_most_of_the_gradient_noise() -> None:
    """The loss of a constant field v = a has the derivative -2 mean(u) at a = 0.

    Over pairs the sine's part of u alone is left, at most theta |x|.
    """
    theta, rows = 0.02, gaussian_particles(64, 2)
    pairs, noise, time = _opposite_pairs(rows, generator(0))
    target = ou_path(pairs.x, noise, time, theta)[1]
    alone = ou_path(rows.x, noise[:64], time[:64], theta)[1]
    assert torch.equal(noise[:64], -noise[64:])
    assert torch.equal(time[:64], time[64:])
    assert float(target.mean(dim=0).norm()) < theta * float(rows.x.norm(dim=1).max())
    assert float(alone.mean(dim=0).norm()) > 3 * float(target.mean(dim=0).norm())


def test_context_goes_with_its_row_in_a_pair() -> None:
    rows = Particles(points(5, 2), points(5, 3, seed=1))
    pairs, _, _ = _opposite_pairs(rows, generator(0))
    assert pairs.context is not None
    assert rows.context is not None
    for half in (slice(0, 5), slice(5, 10)):
        assert torch.equal(pairs.x[half], rows.x)
        assert torch.equal(pairs.context[half], rows.context)

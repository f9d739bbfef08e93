"""The regression start: the OU path of a step, its velocity, and the block that follows it."""

from __future__ import annotations

import math

import torch

from jkoflow.blocks import NeuralODEBlock
from jkoflow.blocks.ode.velocity import MLPVelocity
from jkoflow.functionals import KL
from jkoflow.laws import StandardNormal
from jkoflow.laws.ornstein_uhlenbeck import ou_angle, ou_path
from jkoflow.particles import Particles
from jkoflow.recipe import DescentSettings
from jkoflow.runtime import Runtime
from jkoflow.steps import Step
from jkoflow.steps.descent import Descent
from jkoflow.steps.regression import opposite_pairs, regress
from oracles.blocks import generator, points
from oracles.solvers import gaussian_particles


def started(seed: int = 0, updates: int = 300) -> tuple[NeuralODEBlock, Descent, Particles]:
    train, validation = gaussian_particles(3000, 2), gaussian_particles(500, 2, seed=1)
    field = MLPVelocity(
        dim=2, width=32, depth=1, n_frequencies=4, frequency_scale=0.3, generator=generator(0)
    )
    field = field.double()
    field.set_reach(train.x, displacement=ou_angle(0.5))
    block = NeuralODEBlock(field, gamma=0.5, steps=2)
    step = Step(1, 0.5, train, validation, KL(StandardNormal(2)), Runtime(seed, dtype=torch.float64))
    done = regress(field, step, DescentSettings(updates, 256, 1e-2))
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
    asked = []

    def stop(phase: str, updates: int) -> bool:
        asked.append(phase)
        return updates >= 20

    step = Step(1, 0.5, train, train, KL(StandardNormal(2)), Runtime(0, dtype=torch.float64), stop)
    field = MLPVelocity(dim=2, width=8, generator=generator(0)).double()
    assert regress(field, step, DescentSettings(100, 32, 1e-2, checkpoints=10)).updates == 20
    assert set(asked) == {"warm_start"}


def test_opposite_noises_take_out_most_of_the_gradient_noise() -> None:
    """The loss of a constant field v = a has the derivative -2 mean(u) at a = 0.

    Over pairs the sine's part of u alone is left, at most theta |x|.
    """
    theta, rows = 0.02, gaussian_particles(64, 2)
    pairs, noise, time = opposite_pairs(rows, generator(0))
    target = ou_path(pairs.x, noise, time, theta)[1]
    alone = ou_path(rows.x, noise[:64], time[:64], theta)[1]
    assert torch.equal(noise[:64], -noise[64:])
    assert torch.equal(time[:64], time[64:])
    assert float(target.mean(dim=0).norm()) < theta * float(rows.x.norm(dim=1).max())
    assert float(alone.mean(dim=0).norm()) > 3 * float(target.mean(dim=0).norm())


def test_context_goes_with_its_row_in_a_pair() -> None:
    rows = Particles(points(5, 2), points(5, 3, seed=1))
    pairs, _, _ = opposite_pairs(rows, generator(0))
    assert pairs.context is not None
    assert rows.context is not None
    for half in (slice(0, 5), slice(5, 10)):
        assert torch.equal(pairs.x[half], rows.x)
        assert torch.equal(pairs.context[half], rows.context)

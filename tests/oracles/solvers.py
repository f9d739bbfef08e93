"""Ways to get a block that are quick or exact, for tests of what is done with blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jkoflow.blocks import AffineBlock, Block
from jkoflow.blocks.ode.family import NetworkSettings, NeuralODEFamily
from jkoflow.exact.gaussian import GaussianState, Quadratic, jko_step, transport_map
from jkoflow.journal import Solution
from jkoflow.particles import Particles
from jkoflow.recipe import DescentSettings
from jkoflow.steps import Step
from jkoflow.steps.solvers import ProximalSolver
from oracles.blocks import points

__all__ = ["SMALL", "RecordingSolver", "gaussian_block", "gaussian_particles", "quick_solver"]

SMALL = NeuralODEFamily(network=NetworkSettings(width=16, depth=1, n_frequencies=4, frequency_scale=0.3))
"""Blocks of a small network."""


def gaussian_particles(n: int, dim: int, dtype: torch.dtype = torch.float64, *, seed: int = 0) -> Particles:
    """Draws of N(m, Q diag(s^2) Q^T), m from 1.5 to -1 and s from 0.5 to 1.8 (0.6 in one dimension)."""
    source = torch.Generator().manual_seed(100 + dim)
    q = torch.linalg.qr(torch.randn(dim, dim, generator=source, dtype=torch.float64))[0]
    s = torch.linspace(0.5 if dim > 1 else 0.6, 1.8, dim).double()
    m = torch.linspace(1.5, -1.0, dim, dtype=torch.float64)
    z = (points(n, dim, seed=seed) - 0.3) / 1.2
    return Particles((m + (z * s) @ q.T).to(dtype))


def gaussian_block(x: Tensor, gamma: float) -> AffineBlock:
    """The exact step of the Gaussian with the moments of `x`, for V = |x|^2/2."""
    before = GaussianState.from_samples(x.double().numpy())
    step = transport_map(before, jko_step(before, gamma, Quadratic.standard(before.dim)))
    offset = step.target - step.matrix @ step.source
    return AffineBlock(
        dim=before.dim,
        gamma=gamma,
        matrix=torch.tensor(step.matrix, dtype=x.dtype),
        offset=torch.tensor(offset, dtype=x.dtype),
    )


class RecordingSolver:
    """The exact Gaussian step, or what `replaced` gives for a number; keeps every step it was given."""

    def __init__(self, replaced: dict[int, Callable[[Step], Block]] | None = None) -> None:
        self.replaced = replaced or {}
        self.steps: list[Step] = []

    def __call__(self, step: Step) -> Solution:
        self.steps.append(step)
        make = self.replaced.get(step.number, lambda given: gaussian_block(given.train.x, given.gamma))
        return Solution(make(step), {"finished_on": "closed_form"})


def quick_solver(updates: int = 15, **options: Any) -> ProximalSolver:
    """The proximal objective with a small network and few updates."""
    descent = DescentSettings(updates, 64, 5e-3, checkpoints=3)
    return ProximalSolver(SMALL, descent, **{"steps": 1, **options})

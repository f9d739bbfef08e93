"""What one proximal step is given, and the untrained block it starts from.

    p_{n-1}, gamma_n, q  ->  T_n = the identity, sized to the particles

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (20) and (25).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from jkoflow.blocks import NeuralODEBlock
from jkoflow.blocks.ode.velocity import MLPVelocity
from jkoflow.laws import Law
from jkoflow.objective import KLObjective
from jkoflow.particles import Particles
from jkoflow.runtime import Runtime
from jkoflow.warm_start import ou_angle

__all__ = ["NetworkSettings", "Step", "Stop", "new_block"]

Stop = Callable[[str, int], bool]
"""Asked at checkpoints with the phase and the updates made; True ends the phase."""


@dataclass(frozen=True)
class Step:
    """What one step is given.

    Arguments:
        number: n, from 1.
        gamma: gamma_n; infinite for a free step.
        train: Samples of p_{n-1}.
        validation: Held-out samples of p_{n-1}.
        base: q.
        runtime: Device, dtype, seed.
        stop: See `Stop`.
        round: Number of the whole fit, from 0, when step sizes are re-parametrised.
    """

    number: int
    gamma: float
    train: Particles
    validation: Particles
    base: Law
    runtime: Runtime
    stop: Stop = lambda phase, updates: False
    round: int = 0

    def stream(self, name: str) -> torch.Generator:
        """The step's own source of randomness of that name."""
        return self.runtime.stream(name, self.round, self.number)

    @property
    def objective(self) -> KLObjective:
        """The proximal objective of this step."""
        return KLObjective(self.base, self.gamma)


@dataclass(frozen=True)
class NetworkSettings:
    """The velocity network of every block; see `MLPVelocity`."""

    width: int = 128
    depth: int = 3
    n_frequencies: int = 32
    frequency_scale: float = 1.0


def new_block(step: Step, network: NetworkSettings, *, steps: int) -> NeuralODEBlock:
    """An untrained block, the identity map, sized to the particles it will move."""
    velocity = MLPVelocity(
        dim=step.train.dim,
        context_dim=step.train.context_dim,
        width=network.width,
        depth=network.depth,
        n_frequencies=network.n_frequencies,
        frequency_scale=network.frequency_scale,
        generator=step.stream("initial_weights"),
    ).to(device=step.runtime.device, dtype=step.runtime.dtype)
    velocity.set_reach(step.train.x, displacement=ou_angle(step.gamma))
    return NeuralODEBlock(velocity, gamma=step.gamma, steps=steps)

r"""Neural-ODE blocks as a family: how wide, how deep and how fine the network of a step's velocity is.

    frequencies = clip(rows/600, 8, 64)
    phase       = clip(1.1/theta, least, most)       of the features' w.x, theta the angle of the block's step

A step of angle theta smooths structure of about that length, in standardised units: shorter waves than that
are gone before its end, longer ones are for later blocks. Pilot fits choose `least` and `most` among four
pairs. Source: measured on held-out rows of training tables, docs/performance.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import torch

from jkoflow.blocks.base import Block
from jkoflow.blocks.family import PLAIN, Family, Start
from jkoflow.blocks.ode.block import NeuralODEBlock
from jkoflow.blocks.ode.velocity import MLPVelocity
from jkoflow.errors import InputError
from jkoflow.laws.ornstein_uhlenbeck import ou_angle
from jkoflow.particles import Particles
from jkoflow.storage.entries import brief, checked_real, checked_whole, require_names

__all__ = ["NetworkRules", "NetworkSettings", "NeuralODEFamily"]


@dataclass(frozen=True)
class NetworkSettings:
    """The velocity network of one block; see `MLPVelocity`."""

    width: int = 128
    depth: int = 3
    n_frequencies: int = 32
    frequency_scale: float = 1.0

    @classmethod
    def of(cls, options: object, *, most: int = 2**14) -> NetworkSettings:
        """The network that a table of options describes, or the settings themselves.

        Raises:
            InputError: No table, an unknown option, or one that is out of range.
        """
        if isinstance(options, NetworkSettings):
            return options
        if not isinstance(options, Mapping):
            raise InputError(
                f"block 'neural_ode': network: expected a table with {', '.join(vars(cls()))}, got"
                f" {brief(options)}"
            )
        given = {**vars(cls()), **options}
        try:
            require_names(given, vars(cls()))
            return cls(
                width=checked_whole(given, "width", least=1, most=most),
                depth=checked_whole(given, "depth", most=most),
                n_frequencies=checked_whole(given, "n_frequencies", most=most),
                frequency_scale=checked_real(given, "frequency_scale", above=0.0),
            )
        except ValueError as failure:
            raise InputError(f"block 'neural_ode': network: {failure}") from None


@dataclass(frozen=True)
class NetworkRules:
    """The size of velocity networks, by the number of training rows and the step size.

    Arguments:
        width: Units of each hidden layer.
        started_depth: Hidden layers of a block that is started by regression.
        depth: Hidden layers of a block that descends on the objective from the identity.
        frequencies: Fourier frequencies of such a block.
        phase: Standard deviation of its features' phase w.x, radians.
        started_frequencies: Fewest and most frequencies of a started block; more would learn rows by heart.
        rows_per_frequency: Training rows for each frequency of a started block.
        phase_times_angle: Standard deviation of the phase w.x, radians, times the angle of the step, radians,
            in a started block, within the bounds of `features`.
        features: Least and most standard deviation of the phase, radians, by the name that a pilot fit
            chooses: one for all blocks, or finer in shorter steps.
    """

    width: int = 128
    started_depth: int = 2
    depth: int = 3
    frequencies: int = 32
    phase: float = 1.0
    started_frequencies: tuple[int, int] = (8, 64)
    rows_per_frequency: int = 600
    phase_times_angle: float = 1.1
    features: Mapping[str, tuple[float, float]] = field(
        default_factory=lambda: MappingProxyType(
            {"coarse": (1.2, 1.2), "even": (2.5, 2.5), "fine": (1.2, 6.0), "finest": (1.2, 24.0)}
        )
    )

    def phase_of(self, features: str, gamma: float) -> float:
        """Standard deviation of the phase w.x in a started block of step size `gamma`, radians."""
        least, most = self.features[features]
        return min(max(self.phase_times_angle / ou_angle(gamma), least), most)

    def started(self, dim: int, phase: float, n_rows: int) -> NetworkSettings:
        """The network of a started block, whose features have a phase w.x of that standard deviation."""
        low, high = self.started_frequencies
        count = min(max(n_rows // self.rows_per_frequency, low), high)
        return NetworkSettings(self.width, self.started_depth, count, phase / math.sqrt(dim))

    def plain(self, dim: int) -> NetworkSettings:
        """The network of a block that descends on its objective from the identity."""
        return NetworkSettings(self.width, self.depth, self.frequencies, self.phase / math.sqrt(dim))


@dataclass(frozen=True)
class NeuralODEFamily(Family):
    """Blocks that are the Runge-Kutta map of a velocity field.

    Arguments:
        rules: The size of their networks.
        network: The network of every block, whatever the rules, or a table of its settings; None to follow
            the rules.
    """

    rules: NetworkRules = field(default_factory=NetworkRules)
    network: NetworkSettings | Mapping[str, Any] | None = None
    block: ClassVar[type[Block]] = NeuralODEBlock
    follows_paths: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.rules, NetworkRules):
            raise InputError(f"block 'neural_ode': rules: expected NetworkRules, got {brief(self.rules)}")
        if self.network is not None:
            object.__setattr__(self, "network", NetworkSettings.of(self.network))

    @property
    def variants(self) -> tuple[str, ...]:  # type: ignore[override]  # those of its rules
        """How fine the features may be."""
        return tuple(self.rules.features)

    def new(
        self, rows: Particles, gamma: float, start: Start = PLAIN, *, generator: torch.Generator
    ) -> NeuralODEBlock:
        given = self.network
        network = self._sized_for(rows, gamma, start) if given is None else NetworkSettings.of(given)
        return new_block(rows, gamma, network, steps=start.steps, generator=generator)

    def _sized_for(self, rows: Particles, gamma: float, start: Start) -> NetworkSettings:
        if start.variant is None:
            return self.rules.plain(rows.dim)
        n_rows = len(rows) if start.n_rows is None else start.n_rows
        return self.rules.started(rows.dim, self.rules.phase_of(start.variant, gamma), n_rows)


def new_block(
    rows: Particles, gamma: float, network: NetworkSettings, *, steps: int, generator: torch.Generator
) -> NeuralODEBlock:
    """An untrained block, the identity map, sized to the particles it will move."""
    few = rows.rows(slice(0, 0)).x
    velocity = MLPVelocity(
        dim=rows.dim,
        context_dim=rows.context_dim,
        width=network.width,
        depth=network.depth,
        n_frequencies=network.n_frequencies,
        frequency_scale=network.frequency_scale,
        generator=generator,
    ).to(device=few.device, dtype=few.dtype)
    own = rows.own.x
    velocity.set_reach(own if len(own) else few.new_zeros(1, rows.dim), displacement=ou_angle(gamma))
    velocity.radius.fill_(rows.world.largest(float(velocity.radius)))
    return NeuralODEBlock(velocity, gamma=gamma, steps=steps)

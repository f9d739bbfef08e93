r"""What a proximal step descends: a functional G of the law of the pushed particles, and the price of moving.

    L(T) = G(T_# p_{n-1}) + E|x - T(x)|^2 / (2 gamma),      x ~ p_{n-1}

G is seen through the particles: its terms are one number for each of them, in nats, whose mean is G up to
what the block cannot change. A functional whose value has to be learned, such as a divergence by a critic,
keeps what it has learned in a state of its own. Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq.
(16) and (25).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from jkoflow.blocks import Block, Source
from jkoflow.blocks.log_det import PushWithLogDet
from jkoflow.errors import InputError
from jkoflow.laws import Law
from jkoflow.particles import Particles

__all__ = ["Functional", "ProximalObjective", "Pushed", "Terms"]


@dataclass(frozen=True)
class Pushed:
    """Particles and where a block takes them.

    Arguments:
        before: Samples of p_{n-1}.
        image: T(x), shape `(n, d)`, standardised units.
        log_det: `log|det dT(x)|`, shape `(n,)`, nats.
    """

    before: Particles
    image: Tensor
    log_det: Tensor


class Functional(ABC):
    """G, by its terms at each particle.

    Attributes:
        law: The law that G is smallest at, which the flow ends in.
    """

    law: Law

    @property
    @abstractmethod
    def lam(self) -> float | None:
        """lambda of G's convexity along generalised geodesics; None where it is not convex."""

    @abstractmethod
    def terms(self, state: Any, pushed: Pushed) -> Mapping[str, Tensor]:
        """Named terms at each particle, shape `(n,)`, nats, differentiable in the block.

        Arguments:
            state: What `init` or `update` gave.
            pushed: The particles and their images.
        """

    def value_from_source(self, source: Source, rows: Particles) -> Tensor | None:
        """The value at each particle of a block that takes `source` to `law`, without pushing it there.

        Arguments:
            source: The law that the block takes to `law`, in closed form.
            rows: The particles before the block.

        Returns:
            Shape `(n,)`, nats, differentiable in the block; None where the value is not known that way.
        """
        del source, rows
        return None

    def init(self, particles: Particles) -> Any:
        """What the functional has learned before a step from `particles`; nothing by default."""
        del particles

    def update(self, state: Any, pushed: Pushed) -> Any:
        """What it has learned after a batch; what it knew by default."""
        del pushed
        return state

    def value(self, state: Any, pushed: Pushed) -> Tensor:
        """The sum of the terms at each particle, shape `(n,)`, nats."""
        first, *others = self.terms(state, pushed).values()
        for other in others:
            first = first + other
        return first


@dataclass(frozen=True)
class Terms:
    """The loss of one step, term by term: means over the particles, nats.

    Arguments:
        functional: The means of the functional's terms, by name.
        transport: `E|x - T(x)|^2 / (2 gamma)`; 0 for a free step.
        moved: `E|x - T(x)|^2`, standardised units squared.
    """

    functional: Mapping[str, Tensor]
    transport: Tensor
    moved: Tensor

    @property
    def total(self) -> Tensor:
        """L(T), nats."""
        first, *others = self.functional.values()
        for other in (*others, self.transport):
            first = first + other
        return first

    def to_dict(self) -> dict[str, float]:
        """Each term under its name, as a record of a step has it."""
        named = {f"{name}_nats": float(mean) for name, mean in self.functional.items()}
        return {**named, "transport_nats": float(self.transport)}


@dataclass(frozen=True)
class ProximalObjective:
    """What one proximal step of G minimises.

    Arguments:
        functional: G.
        gamma: Step size; infinite for a free step, which pays nothing for moving.

    Raises:
        InputError: A step size that is not > 0.
    """

    functional: Functional
    gamma: float

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise InputError(f"gamma: expected a number > 0, got {self.gamma}")

    def terms(self, block: Block, rows: Particles, state: Any, push: PushWithLogDet) -> Terms:
        """The terms over `rows`, which `push` takes through the block; differentiable in its parameters."""
        return self.terms_of(Pushed(rows, *push(block, rows)), state)

    def terms_of(self, pushed: Pushed, state: Any = None) -> Terms:
        """The terms from particles, their images and log-determinants."""
        rows = pushed.before
        named = {name: rows.average(term) for name, term in self.functional.terms(state, pushed).items()}
        moved = rows.average((rows.x - pushed.image).square().sum(dim=1))
        return Terms(named, moved / (2 * self.gamma), moved)

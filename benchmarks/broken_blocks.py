"""Blocks and a base law that answer as honest ones do, but for one thing that is false."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jkoflow.blocks import Block, Inverse, NeuralODEBlock
from jkoflow.blocks.ode.integrate import rk4
from jkoflow.laws import StandardNormal

__all__ = [
    "CoarseInverse",
    "InverseOfFewRows",
    "LogDetOfFewRows",
    "ScaledInverse",
    "ScaledLogDet",
    "ShiftedInverse",
    "SkippedInverse",
    "WrongConstant",
]


class Broken(Block):
    """A block that answers as the honest one does, until a method is replaced."""

    def __init__(self, honest: Block, size: float) -> None:
        super().__init__(dim=honest.dim, gamma=honest.gamma)
        self.honest, self.size = honest, size

    def push(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.honest.push(x, context)

    def push_with_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.honest.push_with_log_det(x, context)

    def push_with_jacobian(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.honest.push_with_jacobian(x, context)

    def push_with_trace(self, x: Tensor, context: Tensor | None, probes: Tensor) -> tuple[Tensor, Tensor]:
        return self.honest.push_with_trace(x, context, probes)

    def invert(self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None) -> Inverse:
        return self.honest.invert(y, context, tolerance=tolerance)

    def to_config(self) -> dict[str, Any]:
        return self.honest.to_config()


class ScaledLogDet(Broken):
    """log det times 1 - size: 2 flips its sign."""

    def push_with_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, log_det = self.honest.push_with_log_det(x, context)
        return y, (1 - self.size) * log_det


class LogDetOfFewRows(Broken):
    """1 nat too much where the first coordinate is among the largest of a share `size`."""

    def __init__(self, honest: Block, size: float, x: Tensor) -> None:
        super().__init__(honest, size)
        self.from_here = float(torch.quantile(x[:, 0].double(), 1 - size))

    def push_with_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, log_det = self.honest.push_with_log_det(x, context)
        return y, log_det + (x[:, 0] > self.from_here)


class ShiftedInverse(Broken):
    """Off by `size` along the first coordinate."""

    def invert(self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None) -> Inverse:
        found = self.honest.invert(y, context, tolerance=tolerance)
        shift = torch.zeros_like(found.x[:1])
        shift[0, 0] = self.size
        return Inverse(found.x + shift, found.error)


class InverseOfFewRows(Broken):
    """Off by 1 for the share `size` of standard normal rows that lies farthest along the first coordinate."""

    def invert(self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None) -> Inverse:
        found = self.honest.invert(y, context, tolerance=tolerance)
        far = y[:, :1] > math.sqrt(2) * float(torch.erfinv(torch.tensor(1 - 2 * self.size)))
        return Inverse(found.x + far, found.error)


class ScaledInverse(Broken):
    """Base noise shrunk by `size` before it is pulled: samples too close to the modes."""

    def invert(self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None) -> Inverse:
        return self.honest.invert((1 - self.size) * y, context, tolerance=tolerance)


class SkippedInverse(Broken):
    """The way back leaves the block out."""

    def invert(self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None) -> Inverse:
        return Inverse(y, y.new_zeros(len(y)))


class CoarseInverse(Broken):
    """The velocity integrated backward in `size` steps per step of the map, and nothing corrected."""

    def invert(self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None) -> Inverse:
        block = self.honest
        if not isinstance(block, NeuralODEBlock):
            return block.invert(y, context, tolerance=tolerance)

        def velocity(t: float, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (block.velocity(state[0], t, context),)

        with torch.no_grad():
            x = rk4(velocity, (y,), steps=max(1, round(self.size * block.steps)), reverse=True)[0]
        return Inverse(x, y.new_zeros(len(y)))


@dataclass(frozen=True)
class WrongConstant(StandardNormal):
    """N(0, I) whose density is too high by a constant, nats."""

    nats: float = 0.0

    def log_prob(self, x: Tensor) -> Tensor:
        return super().log_prob(x) + self.nats

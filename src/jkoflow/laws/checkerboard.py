"""The checkerboard: uniform on the eight black squares of side 2 of [-4, 4)².

q(x) = 1/32 where floor(x_1/2) + floor(x_2/2) is even, else 0;    V = 0 or inf,    Z = 32
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jkoflow.laws.base import Entropy, Law, check_points

__all__ = ["Checkerboard"]

_SIDE = 2.0
_SQUARES = 4
"""Squares along one edge of the board, black and white."""


@dataclass(frozen=True)
class Checkerboard(Law):
    """The uniform law on the black squares of a 4 × 4 board over [-4, 4)²; entropy log 32 nats."""

    dim: int = field(default=2, init=False)

    @property
    def lam(self) -> None:
        """None: the support is not convex."""
        return

    @property
    def log_normaliser(self) -> float:
        """log Z = log 32, the area of the black squares."""
        return math.log(_SIDE**2 * _SQUARES**2 / 2)

    def potential(self, x: Tensor) -> Tensor:
        """0 on the black squares, inf elsewhere; its gradient is 0 where it is finite."""
        check_points(x, self.dim)
        row, column = torch.floor(x / _SIDE).unbind(-1)
        half = _SQUARES // 2
        on_board = (row >= -half) & (row < half) & (column >= -half) & (column < half)
        # 0·x keeps the (zero) gradient, so that a caller need not know that this V is flat.
        return torch.where(on_board & ((row + column) % 2 == 0), 0 * x.sum(-1), math.inf)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        square = torch.randint(_SQUARES**2 // 2, (n,), generator=generator)
        within = torch.rand(n, 2, generator=generator, dtype=torch.float64)
        row = torch.div(square, _SQUARES // 2, rounding_mode="floor")
        column = 2 * (square % (_SQUARES // 2)) + row % 2
        corner = torch.stack([row, column], dim=-1) - _SQUARES // 2
        return _SIDE * (corner + within)

    def entropy(self, n: int, generator: torch.Generator) -> Entropy:
        """log 32, exact."""
        del n, generator
        return Entropy(self.log_normaliser, 0.0)

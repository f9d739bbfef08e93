"""The checkerboard: uniform on the black squares, of side s, of a board of k × k squares.

q(x) = 1/Z where floor(x_1/s) + floor(x_2/s) is even, else 0;    V = 0 or inf,    Z = s² k²/2

With s = 2 and k = 4 it is the board over [-4, 4)² of many papers, and Z = 32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jkoflow.counts import checked_count
from jkoflow.errors import InputError
from jkoflow.laws.base import Entropy, Law, check_points, checked_draws

__all__ = ["Checkerboard"]


@dataclass(frozen=True)
class Checkerboard(Law):
    """The uniform law on the black squares of a board centred at 0; its entropy is log Z nats.

    Arguments:
        side: s > 0, the side of one square.
        squares: k, the squares along one edge of the board, black and white; an even number.

    Raises:
        InputError: A side that is not positive and finite, or a k that is odd or below 2.
    """

    side: float = 2.0
    squares: int = 4
    dim: int = field(default=2, init=False)

    def __post_init__(self) -> None:
        if not 0 < self.side < math.inf:
            raise InputError(f"side: expected a finite number above 0, got {self.side}")
        if checked_count(self.squares, "squares", least=2) % 2:
            raise InputError(f"squares: expected an even number of at least 2, got {self.squares}")

    @property
    def lam(self) -> None:
        """None: the support is not convex."""
        return

    @property
    def log_normaliser(self) -> float:
        """log Z = log(s² k²/2), the area of the black squares."""
        return math.log(self.side**2 * self.squares**2 / 2)

    def potential(self, x: Tensor) -> Tensor:
        """0 on the black squares, inf elsewhere; its gradient is 0 where it is finite."""
        check_points(x, self.dim)
        row, column = torch.floor(x / self.side).unbind(-1)
        half = self.squares // 2
        on_board = (row >= -half) & (row < half) & (column >= -half) & (column < half)
        # 0·x keeps the (zero) gradient, so that a caller need not know that this V is flat.
        return torch.where(on_board & ((row + column) % 2 == 0), 0 * x.sum(-1), math.inf)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        n = checked_draws(n, self.dim)
        square = torch.randint(self.squares**2 // 2, (n,), generator=generator)
        within = torch.rand(n, 2, generator=generator, dtype=torch.float64)
        row = torch.div(square, self.squares // 2, rounding_mode="floor")
        column = 2 * (square % (self.squares // 2)) + row % 2
        corner = torch.stack([row, column], dim=-1) - self.squares // 2
        return self.side * (corner + within)

    def entropy(self, n: int, generator: torch.Generator) -> Entropy:
        """log Z, exact."""
        del n, generator
        return Entropy(self.log_normaliser, 0.0)

r"""A law with independent columns between the normal and the logistic law, known by its potential.

    V(x) = sum_i  a x_i²/2 + w log cosh(x_i / l),    lambda = a,    Z = (∫ exp(-a t²/2 - w log cosh(t/l))
    dt)^d

Near 0 it is as narrow as a normal law of variance 1/(a + w/l²); far out its tails are those of a normal law
of variance 1/a, or exponential where a = 0. (theory: "Objects"; log cosh is the smooth convex potential of
the experiments on functionals beyond the quadratic.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from jkoflow.counts import checked_count
from jkoflow.errors import InputError
from jkoflow.laws.base import Law, check_points, checked_draws

__all__ = ["LogCosh"]


@dataclass(frozen=True)
class LogCosh(Law):
    """exp(-V)/Z on R^d.

    Arguments:
        dim: Dimension d >= 1.
        curvature: a >= 0, of the quadratic part.
        weight: w >= 0, of the log cosh.
        width: l > 0, below which log cosh is quadratic and beyond which it is linear.
        cells: Cells of equal width by which Z is summed and draws are found.

    Raises:
        InputError: A dimension below 1, a negative number, a width that is not above 0, or a + w = 0.
    """

    dim: int
    curvature: float = 0.5
    weight: float = 1.0
    width: float = 1.0
    cells: int = 2**14

    most_cells: ClassVar[int] = 2**20

    def __post_init__(self) -> None:
        object.__setattr__(self, "dim", checked_count(self.dim, "dim"))
        if not (self.curvature >= 0 and self.weight >= 0 and 0 < self.curvature + self.weight < math.inf):
            raise InputError(
                "curvature, weight: expected finite numbers >= 0, not both 0,"
                f" got {self.curvature} and {self.weight}"
            )
        if not 0 < self.width < math.inf:
            raise InputError(f"width: expected a finite number > 0, got {self.width}")
        cells = checked_count(self.cells, "cells", least=2, most=self.most_cells)
        object.__setattr__(self, "cells", cells)

    @property
    def lam(self) -> float | None:
        """lambda = a; None where a = 0, since log cosh is flat far out."""
        return self.curvature if self.curvature > 0 else None

    @cached_property
    def log_normaliser(self) -> float:
        """log Z = d log ∫ exp(-V_1), by Simpson's rule between points where exp(-V_1) vanishes."""
        _, mass = self._cells
        return self.dim * math.log(float(mass.sum()))

    def potential(self, x: Tensor) -> Tensor:
        check_points(x, self.dim)
        return self._potential(x).sum(-1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """By the quantile function of one column, linear within each of many cells."""
        n = checked_draws(n, self.dim)
        ends, below = self._quantiles
        level = torch.rand(n, self.dim, generator=generator, dtype=torch.float64)
        right = torch.searchsorted(below, level).clamp(1, len(below) - 1)
        low, high = below[right - 1], below[right]
        share = (level - low) / (high - low)
        return ends[right - 1] + share * (ends[right] - ends[right - 1])

    def _potential(self, x: Tensor) -> Tensor:
        far = (x / self.width).abs()
        log_cosh = far + torch.log1p(torch.exp(-2 * far)) - math.log(2)
        return 0.5 * self.curvature * x.square() + self.weight * log_cosh

    def _potential_at(self, t: float) -> float:
        return float(self._potential(torch.tensor(t, dtype=torch.float64)))

    @property
    def _reach(self) -> float:
        """Where exp(-V) of one column is below e^-40."""
        reach = self.width
        while self._potential_at(reach) < 40:
            reach *= 1.2
        return reach

    @property
    def _quantiles(self) -> tuple[Tensor, Tensor]:
        """Ends of cells `(m + 1,)` on the line, and the mass below each, from 0 to 1."""
        ends, mass = self._cells
        below = torch.cat([torch.zeros(1, dtype=torch.float64), mass.cumsum(0)])
        return ends, below / below[-1]

    @cached_property
    def _cells(self) -> tuple[Tensor, Tensor]:
        """Ends of cells `(m + 1,)` on the line, and ∫ exp(-V_1) over each, `(m,)`."""
        ends = torch.linspace(-self._reach, self._reach, self.cells + 1, dtype=torch.float64)
        height = torch.exp(-self._potential(ends))
        middle = torch.exp(-self._potential(0.5 * (ends[1:] + ends[:-1])))
        return ends, (height[1:] + height[:-1] + 4 * middle) / 6 * (ends[1] - ends[0])

"""The standard normal law, the usual base of a flow.

    V(x) = |x|²/2,    log Z = (d/2) log 2π,    lambda = 1

(theory: "Objects".)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jkoflow.counts import checked_count
from jkoflow.laws.base import Entropy, Law, check_points, checked_draws

__all__ = ["StandardNormal"]


@dataclass(frozen=True)
class StandardNormal(Law):
    """N(0, I) on R^d.

    Arguments:
        dim: Dimension d >= 1.

    Raises:
        InputError: A dimension below 1.
    """

    dim: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "dim", checked_count(self.dim, "dim"))

    @property
    def lam(self) -> float:
        """lambda = 1."""
        return 1.0

    @property
    def is_standard(self) -> bool:
        """True."""
        return True

    @property
    def quadratic(self) -> tuple[Tensor, Tensor]:
        """b = 0 and A = I."""
        return torch.zeros(self.dim, dtype=torch.float64), torch.eye(self.dim, dtype=torch.float64)

    @property
    def log_normaliser(self) -> float:
        """log Z = (d/2) log 2π."""
        return 0.5 * self.dim * math.log(2 * math.pi)

    def potential(self, x: Tensor) -> Tensor:
        """V(x) = |x|²/2."""
        check_points(x, self.dim)
        return 0.5 * x.square().sum(-1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n rows, shape `(n, d)`, float64."""
        return torch.randn(checked_draws(n, self.dim), self.dim, generator=generator, dtype=torch.float64)

    def entropy(self, n: int, generator: torch.Generator) -> Entropy:
        """(d/2)(1 + log 2π), exact."""
        del n, generator
        return Entropy(0.5 * self.dim * (1 + math.log(2 * math.pi)), 0.0)

"""Laws with heavier tails than the normal one, in eight columns, their densities in closed form.

    student:  x = A t,    t ~ the multivariate Student law of 3 degrees of freedom,    (A Aᵀ)_ij = 0.6^|i-j|
    laplace:  x = H s,    s_j independent with density exp(-|s_j|)/2,    H = Hadamard's matrix / √8

H is orthogonal and has all entries ±1/√8, so that no column of x is one of the Laplace laws: columns are
uncorrelated, each is nearly normal, and the law is not. Source: Kotz & Nadarajah (2004), Multivariate t
Distributions and Their Applications, eq. (1.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.linalg import hadamard
from torch import Tensor

__all__ = ["HEAVY_TAILS", "RotatedLaplace", "Student"]


@dataclass(frozen=True)
class Student:
    """The multivariate Student law around 0.

    Arguments:
        dim: d.
        degrees: Of freedom, nu >= 3, so that columns have a variance.
        correlation: rho in the scale matrix S, S_ij = rho^|i-j|.
    """

    dim: int = 8
    degrees: int = 3
    correlation: float = 0.6

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws `(n, d)`."""
        normal = torch.randn(n, self.dim, dtype=torch.float64, generator=generator)
        # a chi-square draw is twice a gamma draw; torch's gamma has no generator, so squares are summed
        squares = torch.randn(n, self.degrees, dtype=torch.float64, generator=generator).square()
        return (normal @ self._root().mT) * (self.degrees / squares.sum(dim=1, keepdim=True)).sqrt()

    def log_prob(self, x: Tensor) -> Tensor:
        """log p of rows `(n, d)`, shape `(n,)`, nats."""
        root, nu, d = self._root(), self.degrees, self.dim
        whitened = torch.linalg.solve_triangular(root, x.mT, upper=False)
        constant = math.lgamma((nu + d) / 2) - math.lgamma(nu / 2) - d / 2 * math.log(nu * math.pi)
        quadratic = whitened.square().sum(dim=0)
        return constant - root.diagonal().log().sum() - (nu + d) / 2 * torch.log1p(quadratic / nu)

    def _root(self) -> Tensor:
        place = torch.arange(self.dim, dtype=torch.float64)
        return torch.linalg.cholesky(self.correlation ** (place[:, None] - place).abs())


@dataclass(frozen=True)
class RotatedLaplace:
    """Independent Laplace laws of scale 1, turned by Hadamard's matrix.

    Arguments:
        dim: d, a power of two.
    """

    dim: int = 8

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws `(n, d)`."""
        uniform = torch.rand(2, n, self.dim, dtype=torch.float64, generator=generator)
        exponential = -torch.log1p(-uniform[0])
        return torch.where(uniform[1] < 0.5, exponential, -exponential) @ self._turn().mT

    def log_prob(self, x: Tensor) -> Tensor:
        """log p of rows `(n, d)`, shape `(n,)`, nats."""
        return -(x @ self._turn()).abs().sum(dim=1) - self.dim * math.log(2)

    def _turn(self) -> Tensor:
        return torch.as_tensor(hadamard(self.dim), dtype=torch.float64) / math.sqrt(self.dim)


HEAVY_TAILS = {"student": Student(), "laplace": RotatedLaplace()}

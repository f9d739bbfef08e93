"""Gaussian laws, which are those of quadratic potentials.

    V(x) = (x-b)ᵀ A (x-b)/2,    A = Σ^{-1},    log Z = (d log 2π + log det Σ)/2,
    lambda = smallest eigenvalue of A

(theory: "Closed forms to test against".)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jkoflow.errors import InputError
from jkoflow.laws.base import Entropy, Law, check_points, checked_draws

__all__ = ["Gaussian", "cholesky_factors"]


def cholesky_factors(name: str, matrices: Tensor) -> Tensor:
    """Lower Cholesky factors of symmetric positive definite matrices, shape `(..., d, d)`.

    Raises:
        InputError: A matrix that is not symmetric or not positive definite.
    """
    asymmetry = float((matrices - matrices.mT).abs().max())
    if not asymmetry <= 1e-10 * float(matrices.abs().max()):
        raise InputError(f"{name}: expected a finite symmetric matrix, got one that is not; use (M + M.T)/2")
    factors, info = torch.linalg.cholesky_ex(matrices)
    if int(info.max()) > 0:
        raise InputError(
            f"{name}: expected a positive definite matrix, got one that is not; add to its diagonal"
        )
    return torch.as_tensor(factors)


@dataclass(frozen=True, eq=False)
class Gaussian(Law):
    """N(b, Σ) on R^d, or q ∝ exp(-(x-b)ᵀ A (x-b)/2) with A = Σ^{-1}.

    Arguments:
        mean: b, shape `(d,)`.
        covariance: Σ, symmetric positive definite, shape `(d, d)`.

    Raises:
        InputError: Shapes that do not agree, or a covariance that is not positive definite.
    """

    mean: Tensor
    covariance: Tensor
    dim: int = field(init=False)
    _factor: Tensor = field(init=False, repr=False)

    def __init__(
        self, mean: Tensor | Sequence[float], covariance: Tensor | Sequence[Sequence[float]]
    ) -> None:
        b = torch.as_tensor(mean, dtype=torch.float64, device="cpu").detach().clone()
        sigma = torch.as_tensor(covariance, dtype=torch.float64, device="cpu").detach().clone()
        if b.ndim != 1 or len(b) == 0 or sigma.shape != (len(b), len(b)) or not bool(torch.isfinite(b).all()):
            shapes = f"{tuple(b.shape)} and {tuple(sigma.shape)}"
            raise InputError(
                f"mean and covariance: expected finite numbers of shapes (d,) and (d, d), got {shapes}"
            )
        object.__setattr__(self, "mean", b)
        object.__setattr__(self, "covariance", sigma)
        object.__setattr__(self, "dim", len(b))
        object.__setattr__(self, "_factor", cholesky_factors("covariance", sigma))

    @property
    def lam(self) -> float:
        """lambda = 1 / (largest eigenvalue of Σ)."""
        return 1 / float(torch.linalg.eigvalsh(self.covariance)[-1])

    @property
    def quadratic(self) -> tuple[Tensor, Tensor]:
        """b and A = Σ^{-1}."""
        return self.mean, torch.linalg.inv(self.covariance)

    @property
    def log_normaliser(self) -> float:
        """log Z = (d log 2π + log det Σ)/2."""
        return 0.5 * self.dim * math.log(2 * math.pi) + float(self._factor.diagonal().log().sum())

    def potential(self, x: Tensor) -> Tensor:
        check_points(x, self.dim)
        centred = (x - self.mean.to(x)).unsqueeze(-1)
        white: Tensor = torch.linalg.solve_triangular(self._factor.to(x), centred, upper=False)
        return 0.5 * white.squeeze(-1).square().sum(-1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        n = checked_draws(n, self.dim)
        noise = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        return self.mean + noise @ self._factor.mT

    def entropy(self, n: int, generator: torch.Generator) -> Entropy:
        """d/2 + log Z, exact."""
        del n, generator
        return Entropy(0.5 * self.dim + self.log_normaliser, 0.0)

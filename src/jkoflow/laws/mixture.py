"""Mixtures of Gaussians, with round components or full covariances.

    q(x) = Σ_k w_k N(x; m_k, Σ_k),    Σ_k = s_k² I or any,    V = -log q,    Z = 1

Rows are taken in chunks, so that a mixture of thousands of components needs no table of rows × components at
once. V is not convex in general, so lambda is None.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from jkoflow.errors import InputError
from jkoflow.laws.base import Law, check_points, checked_draws
from jkoflow.laws.quadratic import cholesky_factors
from jkoflow.storage.chunks import MIXTURE_SCORED_NUMBERS

__all__ = ["GaussianMixture"]


@dataclass(frozen=True, eq=False)
class GaussianMixture(Law):
    """Σ_k w_k N(m_k, Σ_k) on R^d.

    Arguments:
        weights: w, shape `(K,)`, positive; divided by their sum.
        means: m_k, shape `(K, d)`.
        stds: s_k of round components Σ_k = s_k² I, shape `(K,)`; either this or `covariances`.
        covariances: Σ_k, symmetric positive definite, shape `(K, d, d)`.

    Raises:
        InputError: Shapes that do not agree, numbers that are not finite or not positive, both or neither of
            `stds` and `covariances`, or a covariance that is not positive definite.
    """

    weights: Tensor
    means: Tensor
    stds: Tensor | None
    covariances: Tensor | None
    dim: int = field(init=False)
    scored_numbers: ClassVar[int] = MIXTURE_SCORED_NUMBERS

    def __init__(
        self,
        weights: Tensor | Sequence[float],
        means: Tensor | Sequence[Sequence[float]],
        *,
        stds: Tensor | Sequence[float] | None = None,
        covariances: Tensor | Sequence[Sequence[Sequence[float]]] | None = None,
    ) -> None:
        if (stds is None) == (covariances is None):
            raise InputError("stds, covariances: expected exactly one of the two")
        w = _positive("weights", weights)
        m = torch.as_tensor(means, dtype=torch.float64, device="cpu").detach().clone()
        if m.ndim != 2 or len(m) != len(w) or m.shape[1] == 0 or not bool(torch.isfinite(m).all()):
            raise InputError(
                f"means: expected finite numbers of shape ({len(w)}, d), got shape {tuple(m.shape)}"
            )
        object.__setattr__(self, "weights", w / w.sum())
        object.__setattr__(self, "means", m)
        object.__setattr__(self, "dim", m.shape[1])
        s = None if stds is None else _positive("stds", stds)
        c = (
            None
            if covariances is None
            else torch.as_tensor(covariances, dtype=torch.float64).detach().clone()
        )
        expected, got = ((len(w),), s) if s is not None else ((len(w), self.dim, self.dim), c)
        assert got is not None
        if got.shape != expected:
            raise InputError(f"stds, covariances: expected shape {expected}, got {tuple(got.shape)}")
        object.__setattr__(self, "stds", s)
        object.__setattr__(self, "covariances", c)
        if c is not None:
            self.__dict__["_factors"] = cholesky_factors("covariances", c)

    @classmethod
    def of_moments(cls, weights: Tensor, means: Tensor, covariances: Tensor) -> GaussianMixture:
        """The mixture of numbers that belong together by construction, as those of EM do: taken as they are.

        Arguments:
            weights: w, shape `(K,)`, of sum 1.
            means: m_k, shape `(K, d)`.
            covariances: Σ_k, shape `(K, d, d)`.
        """
        law = object.__new__(cls)
        parts = {"weights": weights, "means": means, "covariances": covariances}
        law.__dict__.update({name: part.to("cpu", torch.float64) for name, part in parts.items()})
        law.__dict__.update(stds=None, dim=means.shape[1])
        return law

    @cached_property
    def full_covariances(self) -> Tensor:
        """Σ_k of every component, shape `(K, d, d)`."""
        if self.covariances is not None:
            return self.covariances
        assert self.stds is not None
        return self.stds.square()[:, None, None] * torch.eye(self.dim, dtype=torch.float64)

    @cached_property
    def _factors(self) -> Tensor:
        """L_k with L_k L_kᵀ = Σ_k."""
        assert self.covariances is not None
        return cholesky_factors("covariances", self.covariances)

    @property
    def lam(self) -> None:
        """None: not strongly convex in general."""
        return

    @property
    def log_normaliser(self) -> float:
        """0: V is -log q itself."""
        return 0.0

    def potential(self, x: Tensor) -> Tensor:
        check_points(x, self.dim)
        rows = x.reshape(-1, self.dim)
        chunk = max(1, self.scored_numbers // self.means.numel())
        density = torch.cat([self._log_density(part) for part in torch.split(rows, chunk)])
        return -density.reshape(x.shape[:-1])

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        n = checked_draws(n, self.dim)
        noise = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        if n == 0:
            return noise
        chosen = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        if self.stds is not None:
            return self.means[chosen] + self.stds[chosen, None] * noise
        return self.means[chosen] + (self._factors[chosen] @ noise[..., None]).squeeze(-1)

    def _log_density(self, x: Tensor) -> Tensor:
        """log q of rows, shape `(n, d)` to `(n,)`."""
        return torch.logsumexp(self._log_heights().to(x) - 0.5 * self._squared_distances(x), dim=-1)

    def _log_heights(self) -> Tensor:
        """log w_k - (d log 2π + log det Σ_k)/2, shape `(K,)`."""
        if self.stds is not None:
            half_log_det = self.dim * self.stds.log()
        else:
            half_log_det = self._factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return self.weights.log() - 0.5 * self.dim * math.log(2 * math.pi) - half_log_det

    def _squared_distances(self, x: Tensor) -> Tensor:
        """(x - m_k)ᵀ Σ_k^{-1} (x - m_k), shape `(n, K)`."""
        # Not through |x|² - 2x·m + |m|²: narrow components need the digits that it loses in float32.
        if self.stds is not None:
            squares = ((a[:, None] - m).square() for a, m in zip(x.mT, self.means.mT.to(x), strict=True))
            # Column by column: three times as fast as a sum over a last dimension of two.
            squared: Tensor = functools.reduce(torch.add, squares)
            return squared / self.stds.to(x).square()
        centred = x[:, None, :] - self.means.to(x)
        white: Tensor = torch.linalg.solve_triangular(self._factors.to(x), centred[..., None], upper=False)
        return white.squeeze(-1).square().sum(-1)


def _positive(name: str, values: Tensor | Sequence[float]) -> Tensor:
    """Finite positive numbers, shape `(K,)`, as a copy in float64 on the CPU."""
    tensor = torch.as_tensor(values, dtype=torch.float64, device="cpu").detach().clone()
    if tensor.ndim != 1 or len(tensor) == 0 or not bool((torch.isfinite(tensor) & (tensor > 0)).all()):
        raise InputError(
            f"{name}: expected finite positive numbers of shape (K,), got shape {tuple(tensor.shape)}"
        )
    return tensor

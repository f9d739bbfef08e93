r"""An affine block, T(x) = A x + b: the closed-form proximal step of Gaussian particles.

For p_{n-1} = N(m, S) and q = N(0, I) the free step is A = S^{-1/2}, b = -A m, the optimal transport map to q;
its log-determinant is constant (Bures-Wasserstein geometry; Cheng, Lu, Tan & Xie 2024, arXiv 2310.17582,
section 1.2, and Lambert et al. 2022, arXiv 2205.15902, for the finite step).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from jkoflow.blocks.base import Block, Inverse, InverseLipschitz, Shape
from jkoflow.blocks.family import PLAIN, Family, Start
from jkoflow.laws import Law
from jkoflow.particles import Moments, Particles
from jkoflow.storage.entries import checked_whole, require_names

__all__ = ["AffineBlock", "AffineFamily", "whitening"]


class AffineBlock(Block):
    """T(x) = A x + b with A symmetric positive definite.

    Arguments:
        dim: d.
        gamma: Step size; infinite for a free step.
        matrix: A, shape `(d, d)`; the identity if None.
        offset: b, shape `(d,)`; zero if None.
    """

    def __init__(
        self, *, dim: int, gamma: float = math.inf, matrix: Tensor | None = None, offset: Tensor | None = None
    ) -> None:
        super().__init__(dim=dim, gamma=gamma)
        self.register_buffer("matrix", torch.eye(dim) if matrix is None else matrix)
        self.register_buffer("offset", torch.zeros(dim) if offset is None else offset)

    matrix: Tensor
    offset: Tensor

    @classmethod
    def whitening(cls, mean: Tensor, covariance: Tensor) -> AffineBlock:
        """The optimal transport map from N(mean, covariance) to N(0, I): the free Gaussian step, exact."""
        values, vectors = torch.linalg.eigh(covariance.to(torch.float64))
        inverse_root = (vectors * values.rsqrt()) @ vectors.T
        return cls(
            dim=len(mean), matrix=inverse_root, offset=-inverse_root @ mean.to(torch.float64), gamma=math.inf
        )

    def to_config(self) -> dict[str, Any]:
        """Plain settings; matrix and offset are in the state."""
        return {"kind": "affine", "dim": self.dim, "gamma": None if self.free else self.gamma}

    @classmethod
    def stored_shapes(
        cls, settings: Mapping[str, Any], found: Mapping[str, Shape]
    ) -> Iterable[tuple[str, Shape]]:
        del found
        require_names(settings, {"dim", "gamma"})
        dim = checked_whole(settings, "dim", least=1)
        yield from (("matrix", (dim, dim)), ("offset", (dim,)))

    def check_numbers(self) -> None:
        """Refuse a matrix that is not positive definite, or cannot be inverted in its dtype, too."""
        super().check_numbers()
        matrix = self.matrix.double()
        inverse, singular = torch.linalg.inv_ex(self.matrix)
        if int(torch.linalg.cholesky_ex(matrix + matrix.T)[1]) > 0:
            raise ValueError("tensor matrix: expected a positive definite matrix, got another")
        if int(singular) > 0 or not bool(torch.isfinite(inverse).all()):
            raise ValueError(f"tensor matrix: expected one that has an inverse in {self.matrix.dtype}")

    def push(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """A x + b, shape `(n, d)`."""
        del context
        return x @ self.matrix.T + self.offset

    def push_with_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """A x + b and the constant `log det A`."""
        log_det = torch.linalg.slogdet(self.matrix)[1]
        return self.push(x, context), log_det.expand(len(x))

    def push_with_jacobian(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """A x + b and A for every row."""
        return self.push(x, context), self.matrix.expand(len(x), self.dim, self.dim)

    def push_with_trace(self, x: Tensor, context: Tensor | None, probes: Tensor) -> tuple[Tensor, Tensor]:
        """The same as `push_with_log_det`: an affine map has no trace to integrate."""
        del probes
        return self.push_with_log_det(x, context)

    def inverse_lipschitz(self, context: Tensor | None = None) -> InverseLipschitz:
        """1 over the smallest singular value of A, exact."""
        del context
        smallest = float(torch.linalg.svdvals(self.matrix.double())[-1])
        return InverseLipschitz(1 / smallest if smallest > 0 else math.inf, proven=smallest > 0)

    def invert(self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None) -> Inverse:
        """A^-1 (y - b), refined once, with the error that was reached."""
        del tolerance
        x = torch.linalg.solve(self.matrix, (y - self.offset).T).T
        x = x + torch.linalg.solve(self.matrix, (y - self.push(x, context)).T).T
        return Inverse(x, (self.push(x, context) - y).norm(dim=1))


def whitening(mean: Tensor, covariance: Tensor) -> Block:
    """The optimal transport map from N(mean, covariance) to N(0, I)."""
    return AffineBlock.whitening(mean, covariance)


@dataclass(frozen=True)
class AffineFamily(Family):
    """Affine blocks, whose proximal step has a closed form where q is Gaussian: the Gaussian JKO recursion.

    The step from p_{n-1} is that from the Gaussian with its mean and covariance (Gaussian variational
    inference; Lambert et al. 2022, arXiv 2205.15902).
    """

    block: ClassVar[type[Block]] = AffineBlock

    def new(
        self, rows: Particles, gamma: float, start: Start = PLAIN, *, generator: torch.Generator
    ) -> AffineBlock:
        del start, generator
        return AffineBlock(dim=rows.dim, gamma=gamma).to(rows.rows(slice(0, 0)).x)

    def has_closed_form(self, law: Law) -> bool:
        return law.quadratic is not None

    def in_closed_form(self, rows: Particles, gamma: float, law: Law) -> AffineBlock:
        # a third of a second to import, which the use of a fitted flow has no need of
        from jkoflow.exact.gaussian import GaussianState, Quadratic, jko_step, transport_map

        quadratic, moments = law.quadratic, Moments.of(rows)
        assert quadratic is not None
        centre, precision = (np.asarray(part) for part in quadratic)
        before = GaussianState(moments.mean.cpu().numpy(), moments.covariance.cpu().numpy())
        after = jko_step(before, gamma, Quadratic(precision, centre))
        transport = transport_map(before, after)
        like = rows.rows(slice(0, 0)).x
        matrix, shift = torch.as_tensor(transport.matrix).to(like), torch.as_tensor(transport.offset).to(like)
        return AffineBlock(dim=rows.dim, gamma=gamma, matrix=matrix, offset=shift)

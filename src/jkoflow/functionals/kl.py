r"""The Kullback-Leibler divergence to a law q with a known potential V.

    G(p) = KL(p | q),      G(T_# p_{n-1}) = E[V(T(x))] - E[log|det dT(x)|] + constant,      x ~ p_{n-1}

The constant, log Z + E[log p_{n-1}(x)], is the same for every block. KL is lambda-convex along generalised
geodesics where V is lambda-convex. Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (16) and (25).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from jkoflow.blocks import Source
from jkoflow.functionals.base import Functional, Pushed
from jkoflow.laws import Law
from jkoflow.particles import Particles

__all__ = ["KL"]


@dataclass(frozen=True)
class KL(Functional):
    """KL(. | q); it has nothing to learn.

    Arguments:
        law: q.
    """

    law: Law

    @property
    def lam(self) -> float | None:
        """lambda of V; None where V is not strongly convex."""
        return self.law.lam

    def value_from_source(self, source: Source, rows: Particles) -> Tensor:
        # V(T) - log|det dT| = -log q(T) - log Z - log|det dT|, which is -log p - log Z where T_# p = q
        return -source.log_prob(rows.x, rows.context) - self.law.log_normaliser

    def terms(self, state: None, pushed: Pushed) -> Mapping[str, Tensor]:
        del state
        return {"potential": self.law.potential(pushed.image), "neg_log_det": -pushed.log_det}

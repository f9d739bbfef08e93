r"""The triangular map of a Gaussian mixture: the free step over all maps that push some mixture to N(0, I).

    T_i(x) = Phi^{-1}( sum_k w_ik Phi(u_ik) ),    u_k = L_k^{-1} (x - m_k),    L_k L_k^T = C_k
    w_ik   = pi_k prod_{j<i} N(u_jk) / (L_k)_jj, divided by its sum over k

T is the Knothe-Rosenblatt rearrangement of p(x) = sum_k pi_k N(x; m_k, C_k): its coordinate i is the
conditional distribution function of x_i given x_1, ..., x_{i-1}, read in quantiles of the normal law. So
log|det dT(x)| = log p(x) - log N(T(x)), and E[V(T(x))] - E[log|det dT(x)|], the proximal objective at gamma =
infinity, is -E[log p(x)]: the mixture of largest likelihood is the minimiser over this family of maps. With a
context c the mixture is one of (c, x) and T the map of x given c. With one component T is affine.

Source: Rosenblatt (1952), "Remarks on a multivariate transformation", Ann. Math. Statist. 23(3), eq. (1);
eq. (25) of Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, at gamma = infinity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from jkoflow.blocks.base import Block, Inverse, KnownSource, Shape, Source
from jkoflow.blocks.chunked import by_chunks
from jkoflow.blocks.log_sums import log_sum_exp
from jkoflow.blocks.mixture_quantile import (
    component_of,
    conditional_quantiles,
    least_log,
    log_root_two_pi,
    quantile_of_shares,
    rules,
    tail_log_slopes,
)
from jkoflow.blocks.ode.velocity.perceptron import is_transformed
from jkoflow.laws import GaussianMixture, Law
from jkoflow.storage.chunks import MIXTURE_PULLED_NUMBERS, MIXTURE_PUSHED_NUMBERS
from jkoflow.storage.entries import checked_whole, require_names

__all__ = ["MixtureBlock", "mean_of_mixtures", "mixture_map"]


class MixtureBlock(Block):
    """The Knothe-Rosenblatt map of a Gaussian mixture to N(0, I), in float64 within.

    Arguments:
        dim: d.
        n_components: K.
        context_dim: c; the mixture's first columns are those of the context.
        gamma: Step size; infinite, since the map has no transport term.
        log_weights: log pi, shape `(K,)`; equal weights if None.
        means: m_k, shape `(K, c + d)`; zero if None.
        inverse_factors: L_k^{-1}, lower triangular with positive diagonals, shape `(K, c + d, c + d)`; the
            identity if None.
    """

    pushed_numbers: ClassVar[int] = MIXTURE_PUSHED_NUMBERS
    pulled_numbers: ClassVar[int] = MIXTURE_PULLED_NUMBERS
    weights_tolerance: ClassVar[float] = 1e-3
    """How far the logarithm of the sum of stored weights may be from 0: float32 sums of hundreds are."""

    def __init__(
        self,
        *,
        dim: int,
        n_components: int,
        context_dim: int = 0,
        gamma: float = math.inf,
        log_weights: Tensor | None = None,
        means: Tensor | None = None,
        inverse_factors: Tensor | None = None,
    ) -> None:
        super().__init__(dim=dim, gamma=gamma)
        k, p = n_components, context_dim + dim
        self.n_components, self.context_dim = k, context_dim
        self.register_buffer(
            "log_weights", torch.full((k,), -math.log(k)) if log_weights is None else log_weights
        )
        self.register_buffer("means", torch.zeros(k, p) if means is None else means)
        self.register_buffer(
            "inverse_factors", torch.eye(p).repeat(k, 1, 1) if inverse_factors is None else inverse_factors
        )

    log_weights: Tensor
    means: Tensor
    inverse_factors: Tensor

    @classmethod
    def of(cls, mixture: GaussianMixture, *, context_dim: int = 0) -> MixtureBlock:
        """The map of a mixture, whose first `context_dim` columns are those of the context."""
        factors = torch.linalg.cholesky(mixture.full_covariances)
        identity = torch.eye(mixture.dim, dtype=torch.float64).expand_as(factors)
        return cls(
            dim=mixture.dim - context_dim,
            n_components=len(mixture.weights),
            context_dim=context_dim,
            log_weights=mixture.weights.log(),
            means=mixture.means,
            inverse_factors=torch.linalg.solve_triangular(factors, identity, upper=False),
        )

    @classmethod
    def mean_of(cls, blocks: Sequence[MixtureBlock]) -> MixtureBlock:
        """The map of the mean of their mixtures' densities, which is a mixture of all their components."""
        return cls(
            dim=blocks[0].dim,
            n_components=sum(block.n_components for block in blocks),
            context_dim=blocks[0].context_dim,
            log_weights=torch.cat([block.log_weights for block in blocks]) - math.log(len(blocks)),
            means=torch.cat([block.means for block in blocks]),
            inverse_factors=torch.cat([block.inverse_factors for block in blocks]),
        )

    def to_config(self) -> dict[str, Any]:
        """Plain settings; the mixture itself is in the state."""
        return {
            "kind": "mixture",
            "dim": self.dim,
            "n_components": self.n_components,
            "context_dim": self.context_dim,
            "gamma": None if self.free else self.gamma,
        }

    @classmethod
    def stored_shapes(
        cls, settings: Mapping[str, Any], found: Mapping[str, Shape]
    ) -> Iterable[tuple[str, Shape]]:
        del found
        require_names(settings, {"dim", "n_components", "gamma"}, optional={"context_dim"})
        k = checked_whole(settings, "n_components", least=1)
        p = checked_whole(settings, "dim", least=1) + checked_whole(settings, "context_dim", default=0)
        yield from (("log_weights", (k,)), ("means", (k, p)), ("inverse_factors", (k, p, p)))

    def check_numbers(self) -> None:
        """Refuse weights that do not sum to one, and factors that no covariance has, too."""
        super().check_numbers()
        log_total, factors = float(self.log_weights.double().logsumexp(dim=0)), self.inverse_factors
        if not abs(log_total) <= self.weights_tolerance:
            raise ValueError(f"tensor log_weights: expected weights of sum 1, got {math.exp(log_total):.6g}")
        if not bool((factors.diagonal(dim1=1, dim2=2) > 0).all()) or bool(factors.triu(1).any()):
            raise ValueError("tensor inverse_factors: expected triangular matrices with positive diagonals")

    def push(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """T(x), shape `(n, d)`."""
        return self._by_chunks(lambda *rows: (self._push(*rows)[0],), x, context, self.pushed_numbers)[0]

    def push_with_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """T(x) and `log p(x) - log N(T(x))`."""
        y, log_det = self._by_chunks(self._push, x, context, self.pushed_numbers)
        return y, log_det

    def push_with_jacobian(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """T(x) and dT(x), which is lower triangular."""
        y, jacobian = self._by_chunks(self._push_with_jacobian, x, context, self.pushed_numbers)
        return y, jacobian

    def push_with_trace(self, x: Tensor, context: Tensor | None, probes: Tensor) -> tuple[Tensor, Tensor]:
        """The same as `push_with_log_det`: there is no trace to integrate."""
        del probes
        return self.push_with_log_det(x, context)

    @torch.no_grad()
    def invert(self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None) -> Inverse:
        """Coordinate by coordinate, each by a bracketed Newton iteration, with the error that was reached."""
        del tolerance
        (x,) = self._by_chunks(lambda *rows: (self._pull(*rows),), y, context, self.pulled_numbers)
        return Inverse(x, (self.push(x, context) - y).norm(dim=1))

    def source(self, law: Law) -> Source | None:
        """The mixture, or the mixture given the context, where the map is to N(0, I)."""
        return KnownSource(self) if law.is_standard else None

    def source_log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(x), or log p(x | c): a sum over components, which needs no distribution function."""
        (log_prob,) = self._by_chunks(
            lambda *rows: (self._log_density(*rows),), x.double(), context, self.pushed_numbers
        )
        return log_prob

    def source_draw(self, noise: Tensor, context: Tensor | None = None) -> Tensor:
        """Draws from p, or from p given the context: a component, then a row of it.

        The component is the quantile of Phi of the first column of noise; what is left of that is uniform
        again, and makes the component's own first column.
        """
        (rows,) = self._by_chunks(lambda *part: (self._draw(*part),), noise, context, self.pulled_numbers)
        return rows

    def _by_chunks(
        self,
        function: Callable[[Tensor, Tensor | None], tuple[Tensor, ...]],
        x: Tensor,
        context: Tensor | None,
        numbers: int,
    ) -> tuple[Tensor, ...]:
        """`function` in float64 of rows few enough for their tables, in the dtype of `x`."""

        def in_double(rows: Tensor, given: Tensor | None) -> tuple[Tensor, ...]:
            return function(rows.double(), None if given is None else given.double())

        found = by_chunks(in_double, x, context, numbers // self.means.numel())
        return tuple(part.to(x.dtype) for part in found)

    def _standardised(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """u `(n, K, c + d)` and log w `(n, K, c + d)`, not divided by their sum over k."""
        rows = x if context is None else torch.cat([context, x], dim=1)
        inverse = self.inverse_factors.double()
        u = self._whitened(rows, inverse)
        heights = inverse.diagonal(dim1=1, dim2=2).log() - 0.5 * u.square() - log_root_two_pi
        before = heights.cumsum(dim=2) - heights
        return u, self.log_weights.double()[:, None] + before

    def _whitened(self, rows: Tensor, inverse: Tensor) -> Tensor:
        """u_k = L_k^{-1} (x - m_k), shape `(n, K, p)`, by the first p columns of `rows`."""
        shift = (inverse @ self.means.double()[:, : rows.shape[1], None]).flatten()
        # all components in one product, since a batch of small ones is slow
        return torch.addmm(-shift, rows, inverse.flatten(0, 1).T).view(len(rows), *inverse.shape[:2])

    def _log_density(self, x: Tensor, context: Tensor | None) -> Tensor:
        if context is None:
            return log_sum_exp(self._log_joint(x))
        joint = self._log_joint(torch.cat([context, x], dim=1))
        return log_sum_exp(joint) - log_sum_exp(self._log_joint(context))

    def _log_joint(self, rows: Tensor) -> Tensor:
        """log pi_k N(x; m_k, C_k) of the first p columns, `(n, K)`; their factors are the leading parts."""
        p = rows.shape[1]
        inverse = self.inverse_factors.double()[:, :p, :p]
        constant = self.log_weights.double() + inverse.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        squares = self._whitened(rows, inverse).square_().sum(dim=2)
        joint: Tensor = constant - p * log_root_two_pi - 0.5 * squares
        return joint

    def _draw(self, noise: Tensor, context: Tensor | None) -> Tensor:
        c, log_w = self.context_dim, self.log_weights.double().expand(len(noise), -1)
        if context is not None:
            log_w = self._log_joint(context)
        w = torch.softmax(log_w, dim=1)
        component, first = component_of(noise[:, :1], w)
        u = torch.cat([first, noise[:, 1:]], dim=1)
        inverse, means = self.inverse_factors.double()[component[:, 0]], self.means.double()[component[:, 0]]
        if context is not None:
            given = inverse[:, :c, :c] @ (context - means[:, :c])[..., None]
            u = torch.cat([given.squeeze(-1), u], dim=1)
        moved: Tensor = torch.linalg.solve_triangular(inverse, u[..., None], upper=False).squeeze(-1)
        return (means + moved)[:, c:]

    def _push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """T(x) and its log-determinant, log p(x | c) less log N(T(x)).

        Far out that difference of squares has no digits left: there the slopes are taken from ratios, but not
        within a transformation of torch.func, where no branch may depend on a number.
        """
        u, log_w = self._standardised(x, context)
        largest = log_w.amax(dim=1, keepdim=True)
        w = (log_w - largest).clamp_min_(least_log).exp_()
        size = w.sum(dim=1, keepdim=True)
        total = largest + size.log()
        y = quantile_of_shares(u, w / size, log_w - total)[:, self.context_dim :]
        # log p(x | c): the last weights times the last height, over the sum of weights given c
        diagonal = self.inverse_factors.double().diagonal(dim1=1, dim2=2)[:, -1].log()
        last = log_w[:, :, -1] + diagonal - 0.5 * u[:, :, -1].square() - log_root_two_pi
        log_density = torch.logsumexp(last, dim=1) - total[:, 0, self.context_dim]
        log_det = log_density + 0.5 * y.square().sum(dim=1) + self.dim * log_root_two_pi
        far = (y.abs() > rules.far_square).any(dim=1)
        if is_transformed(u) or not bool(far.any()):
            return y, log_det
        c = self.context_dim
        log_rate = self.inverse_factors.double().diagonal(dim1=1, dim2=2).log()[:, c:]
        slopes = tail_log_slopes(u[far][:, :, c:], log_w[far][:, :, c:], log_rate, y[far])
        return y, log_det.index_put((far,), slopes.sum(dim=1))

    def _push_with_jacobian(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """T(x) and dT(x), the derivative of F_i = sum_k w_ik Phi(u_ik) over N(T_i), through u_ik and w_ik."""
        u, log_w = self._standardised(x, context)
        log_w = torch.log_softmax(log_w, dim=1)
        y = quantile_of_shares(u, log_w.exp(), log_w)
        inverse, square = self.inverse_factors.double(), 0.5 * y[:, None].square()
        own = torch.einsum("nki,kij->nij", torch.exp(log_w - 0.5 * u.square() + square), inverse)
        # d log w_ik / dx_j = -sum_{l<i} u_lk (L_k^{-1})_lj, less its mean over k
        pull = -(u[..., None] * inverse).cumsum(dim=2)
        pull = torch.cat([torch.zeros_like(pull[:, :, :1]), pull[:, :, :-1]], dim=2)
        # w_ik (Phi(u_ik) - F_i) / N(T_i), by the smaller tail
        side = -torch.sign(y)[:, None]
        tails = torch.special.log_ndtr(side * u), torch.special.log_ndtr(side * y[:, None])
        shares = [torch.exp(log_w + tail + square + log_root_two_pi) for tail in tails]
        moved = torch.einsum("nki,nkij->nij", side * (shares[0] - shares[1]), pull)
        c = self.context_dim
        return y[:, c:], (own + moved)[:, c:, c:]

    def _pull(self, y: Tensor, context: Tensor | None) -> Tensor:
        n, c = len(y), self.context_dim
        inverse, means = self.inverse_factors.double(), self.means.double()
        rows = y.new_zeros(n, c + self.dim)
        log_w = self.log_weights.double().expand(n, -1)
        for i in range(c + self.dim):
            scale = inverse[:, i, i]
            # copied: what a product of a part of a matrix rounds to depends on where it lies in memory
            row = inverse[:, i, :i].contiguous()
            shift = rows[:, :i] @ row.T - (row * means[:, :i]).sum(dim=1)
            location = means[:, i] - shift / scale
            if i < c:
                assert context is not None
                rows[:, i] = context[:, i]
            else:
                rows[:, i] = conditional_quantiles(y[:, i - c], location, scale, log_w)
            u = scale * (rows[:, i, None] - location)
            log_w = torch.log_softmax(log_w + scale.log() - 0.5 * u.square(), dim=1)
        return rows[:, c:]


def mixture_map(mixture: GaussianMixture, *, context_dim: int = 0) -> Block:
    """The map of a mixture to N(0, I); its first `context_dim` columns are those of the context."""
    return MixtureBlock.of(mixture, context_dim=context_dim)


def mean_of_mixtures(blocks: Sequence[Block]) -> Block:
    """The map of the mean of the densities of several mixtures, each given by its own map."""
    return MixtureBlock.mean_of([block for block in blocks if isinstance(block, MixtureBlock)])

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
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from jkoflow.blocks.base import Block, Inverse
from jkoflow.velocity.perceptron import is_transformed

__all__ = ["MixtureBlock"]

_LOG_ROOT_TWO_PI = 0.5 * math.log(2 * math.pi)
_PUSHED_NUMBERS, _PULLED_NUMBERS = 2**16, 2**20
"""Rows × components × columns held at once: tables of half a megabyte stay in a core's cache; an inverse,
which goes from column to column, has tables of rows × components alone."""
_NO_SHARE = -37.0
"""Logarithm of a share that is lost in rounding."""
_DIRECT_LOG = -600.0
"""Where the logarithm of a probability is above this, the probability is a number in float64."""
_TAIL_STEPS = 4
_FAR = 35.0
"""Quantiles beyond this belong to probabilities that are hardly numbers in float64."""
_MOST_STEPS, _SETTLED, _LAST_STEP = 100, 4e-15, 1e-9
"""A step of Newton's method that is as small as the last of these leaves an error of about its square."""

OfRows = Callable[[Tensor, Tensor | None], tuple[Tensor, ...]]
Tail = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


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
    def of(cls, weights: Tensor, means: Tensor, covariances: Tensor, *, context_dim: int = 0) -> MixtureBlock:
        """The map of a mixture of weights `(K,)`, means `(K, c + d)` and covariances `(K, c + d, c + d)`."""
        factors = torch.linalg.cholesky(covariances.to(torch.float64))
        identity = torch.eye(means.shape[1], dtype=torch.float64, device=means.device).expand_as(factors)
        return cls(
            dim=means.shape[1] - context_dim,
            n_components=len(weights),
            context_dim=context_dim,
            log_weights=(weights.to(torch.float64) / weights.sum()).log(),
            means=means.to(torch.float64),
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

    def push(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """T(x), shape `(n, d)`."""
        return self._by_chunks(lambda *rows: (self._push(*rows)[0],), x, context, _PUSHED_NUMBERS)[0]

    def push_with_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """T(x) and `log p(x) - log N(T(x))`."""
        y, log_det = self._by_chunks(self._push, x, context, _PUSHED_NUMBERS)
        return y, log_det

    def push_with_jacobian(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """T(x) and dT(x), which is lower triangular."""
        y, jacobian = self._by_chunks(self._push_with_jacobian, x, context, _PUSHED_NUMBERS)
        return y, jacobian

    def push_with_trace(self, x: Tensor, context: Tensor | None, probes: Tensor) -> tuple[Tensor, Tensor]:
        """The same as `push_with_log_det`: there is no trace to integrate."""
        del probes
        return self.push_with_log_det(x, context)

    @torch.no_grad()
    def invert(self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None) -> Inverse:
        """Coordinate by coordinate, each by a bracketed Newton iteration, with the error that was reached."""
        del tolerance
        (x,) = self._by_chunks(lambda *rows: (self._pull(*rows),), y, context, _PULLED_NUMBERS)
        return Inverse(x, (self.push(x, context) - y).norm(dim=1))

    def _by_chunks(
        self,
        function: Callable[[Tensor, Tensor | None], tuple[Tensor, ...]],
        x: Tensor,
        context: Tensor | None,
        numbers: int,
    ) -> tuple[Tensor, ...]:
        """`function` in float64 of rows few enough for their tables, in the dtype of `x`."""
        size = max(1, numbers // self.means.numel())
        parts = [
            function(x[i : i + size].double(), None if context is None else context[i : i + size].double())
            for i in range(0, max(len(x), 1), size)
        ]
        return tuple(torch.cat(columns).to(x.dtype) for columns in zip(*parts, strict=True))

    def _standardised(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """u `(n, K, c + d)` and log w `(n, K, c + d)`, not divided by their sum over k."""
        rows = x if context is None else torch.cat([context, x], dim=1)
        inverse = self.inverse_factors.double()
        # component by component in one product, since a batch of small ones is slow
        u = rows @ inverse.flatten(0, 1).T
        u = u.view(len(rows), *self.means.shape) - (inverse @ self.means.double()[..., None]).squeeze(-1)
        heights = inverse.diagonal(dim1=1, dim2=2).log() - 0.5 * u.square() - _LOG_ROOT_TWO_PI
        before = heights.cumsum(dim=2) - heights
        return u, self.log_weights.double()[:, None] + before

    def _push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        u, log_w = self._standardised(x, context)
        largest = log_w.amax(dim=1, keepdim=True)
        w = torch.exp(log_w - largest)
        size = w.sum(dim=1, keepdim=True)
        total = largest + size.log()
        y = _mixture_quantile(u, w / size, log_w - total)[:, self.context_dim :]
        # log p(x | c): the last weights times the last height, over the sum of weights given c
        diagonal = self.inverse_factors.double().diagonal(dim1=1, dim2=2)[:, -1].log()
        last = log_w[:, :, -1] + diagonal - 0.5 * u[:, :, -1].square() - _LOG_ROOT_TWO_PI
        log_density = torch.logsumexp(last, dim=1) - total[:, 0, self.context_dim]
        return y, log_density + 0.5 * y.square().sum(dim=1) + self.dim * _LOG_ROOT_TWO_PI

    def _push_with_jacobian(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Of F_i = sum_k w_ik Phi(u_ik): what u_ik moves, and what the weights move, over N(T_i)."""
        u, log_w = self._standardised(x, context)
        log_w = torch.log_softmax(log_w, dim=1)
        y = _mixture_quantile(u, log_w.exp(), log_w)
        inverse, square = self.inverse_factors.double(), 0.5 * y[:, None].square()
        own = torch.einsum("nki,kij->nij", torch.exp(log_w - 0.5 * u.square() + square), inverse)
        # d log w_ik / dx_j = -sum_{l<i} u_lk (L_k^{-1})_lj, less its mean over k
        pull = -(u[..., None] * inverse).cumsum(dim=2)
        pull = torch.cat([torch.zeros_like(pull[:, :, :1]), pull[:, :, :-1]], dim=2)
        # w_ik (Phi(u_ik) - F_i) / N(T_i), by the smaller tail
        side = -torch.sign(y)[:, None]
        tails = torch.special.log_ndtr(side * u), torch.special.log_ndtr(side * y[:, None])
        shares = [torch.exp(log_w + tail + square + _LOG_ROOT_TWO_PI) for tail in tails]
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
                z = y[:, i - c]
                counted = _counted(z, location, scale.expand_as(location), log_w)
                rows[:, i] = _conditional_quantiles(z, *counted)
            u = scale * (rows[:, i, None] - location)
            log_w = torch.log_softmax(log_w + scale.log() - 0.5 * u.square(), dim=1)
        return rows[:, c:]


def _mixture_quantile(u: Tensor, w: Tensor, log_w: Tensor) -> Tensor:
    """Phi^{-1}(sum_k w_k Phi(u_k)) over dimension 1, by the smaller of both tails."""
    if u.requires_grad or is_transformed(u):  # an infinite quantile would have no derivative, wanted or not
        return _mixture_quantile_by_logarithms(u, log_w)
    below, above = ((0.5 * w * torch.special.erfc(side * math.sqrt(0.5) * u)).sum(dim=1) for side in (-1, 1))
    tail = torch.special.ndtri(torch.minimum(below, above))
    y = torch.where(below < above, tail, -tail)
    far = (torch.minimum(below, above) < math.exp(_DIRECT_LOG)).any(dim=1)
    if bool(far.any()):
        y[far] = _mixture_quantile_by_logarithms(u[far], log_w[far])
    return y


def _mixture_quantile_by_logarithms(u: Tensor, log_w: Tensor) -> Tensor:
    """The same where a probability may be no number in float64, and where it is differentiated."""
    below = torch.logsumexp(log_w + torch.special.log_ndtr(u), dim=1)
    above = torch.logsumexp(log_w + torch.special.log_ndtr(-u), dim=1)
    tail = _normal_quantile(torch.minimum(below, above))
    return torch.where(below < above, tail, -tail)


def _normal_quantile(log_p: Tensor) -> Tensor:
    """Phi^{-1}(p) for log p <= log 1/2, far into the tail."""
    direct = torch.special.ndtri(log_p.clamp_min(_DIRECT_LOG).exp())
    far = log_p.clamp_max(_DIRECT_LOG)
    z = -(-2 * far.detach()).sqrt()
    for _ in range(_TAIL_STEPS):  # the last of Newton's steps carries the derivative
        at = z.detach()
        log_p_at = torch.special.log_ndtr(at)
        z = at - (log_p_at - far) * (0.5 * at.square() + _LOG_ROOT_TWO_PI + log_p_at).exp()
    return torch.where(log_p < _DIRECT_LOG, z, direct)


def _counted(z: Tensor, location: Tensor, scale: Tensor, log_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The components that count in some row, as many for each row; all where these are most.

    One does not count whose whole weight is lost in the tail probability of z.
    """
    least = torch.special.log_ndtr(-z.abs()) + _NO_SHARE
    count = int((log_w > least[:, None]).sum(dim=1).max()) if len(z) else 0
    if 2 * count > log_w.shape[1] or not count:
        return location, scale, log_w
    chosen = log_w.topk(count, dim=1, sorted=False).indices
    return location.gather(1, chosen), scale.gather(1, chosen), log_w.gather(1, chosen)


def _conditional_quantiles(z: Tensor, location: Tensor, scale: Tensor, log_w: Tensor) -> Tensor:
    """The t with sum_k w_k Phi(s_k (t - m_k)) = Phi(z), shape `(n,)`.

    Arguments:
        z: Shape `(n,)`.
        location: m, shape `(n, K)`.
        scale: s, one over standard deviations, shape `(n, K)`.
        log_w: log w, shape `(n, K)`.
    """
    t, far = torch.empty_like(z), z.abs() > _FAR
    for rows, tail_of in ((far, _tail_by_logarithms), (~far, _tail)):
        if bool(rows.any()):
            t[rows] = _solved(tail_of, z[rows], location[rows], scale[rows], log_w[rows])
    return t


def _solved(tail_of: Tail, z: Tensor, location: Tensor, scale: Tensor, log_w: Tensor) -> Tensor:
    """Newton's method on the logarithm of the smaller tail, a bisection where it leaves the bracket.

    The root lies between the least and the greatest of the components' own quantiles; a row that has settled
    is left as it is, so that its number does not depend on the others.
    """
    side, goal = torch.where(z > 0, -1.0, 1.0)[:, None].to(z), torch.special.log_ndtr(-z.abs())
    quantiles = location + z[:, None] / scale
    low, high = quantiles.min(dim=1).values, quantiles.max(dim=1).values
    t = (log_w.exp() * quantiles).sum(dim=1).clamp(low, high)
    left = torch.arange(len(z), device=z.device)
    for _ in range(_MOST_STEPS):
        at = t[left]
        log_tail, slope = tail_of(side * scale * (at[:, None] - location), scale, log_w)
        gap = (log_tail - goal[left]) * side[:, 0]
        low[left], high[left] = torch.where(gap < 0, at, low[left]), torch.where(gap < 0, high[left], at)
        newton, middle = at - gap / slope, 0.5 * (low[left] + high[left])
        inside = (newton >= low[left]) & (newton <= high[left])
        t[left] = torch.where(inside, newton, middle)
        step = (t[left] - at).abs() / (1 + at.abs())
        going = step > torch.where(inside, _LAST_STEP, _SETTLED)
        if not bool(going.any()):
            break
        left, side, scale, location, log_w = (rows[going] for rows in (left, side, scale, location, log_w))
    return t


def _tail(v: Tensor, scale: Tensor, log_w: Tensor) -> tuple[Tensor, Tensor]:
    """log sum_k w_k Phi(v_k) and what it grows by with t at the rates `scale`."""
    w = log_w.exp()
    probability = 0.5 * (w * torch.special.erfc(v * -math.sqrt(0.5))).sum(dim=1)
    density = (w * scale * torch.exp(-0.5 * v.square() - _LOG_ROOT_TWO_PI)).sum(dim=1)
    return probability.log(), density / probability


def _tail_by_logarithms(v: Tensor, scale: Tensor, log_w: Tensor) -> tuple[Tensor, Tensor]:
    """The same where the probability is no number in float64."""
    log_probability = torch.logsumexp(log_w + torch.special.log_ndtr(v), dim=1)
    log_density = torch.logsumexp(log_w + scale.log() - 0.5 * v.square() - _LOG_ROOT_TWO_PI, dim=1)
    return log_probability, (log_density - log_probability).exp()

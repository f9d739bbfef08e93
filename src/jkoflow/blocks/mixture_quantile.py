r"""Distribution functions and quantiles of Gaussian mixtures on the line, many at once, far into both tails.

    F(t) = sum_k w_k Phi((t - m_k) s_k),    z = Phi^{-1}(F(t)) and its inverse

A probability near 1 has lost its digits, so that the smaller tail is what counts; one that is no number in
float64 is replaced by its logarithm. Source: ours; Phi and its logarithm are torch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jkoflow.blocks.log_sums import log_sum_exp
from jkoflow.blocks.ode.velocity.perceptron import is_transformed

__all__ = [
    "conditional_quantiles",
    "least_log",
    "log_root_two_pi",
    "quantile_of_shares",
    "rules",
    "tail_log_slopes",
]

log_root_two_pi = 0.5 * math.log(2 * math.pi)

_height_of_normal = math.exp(-log_root_two_pi)
"""The density of the standard normal law at 0."""

least_log = -300.0
"""Logarithm of the smallest share that is kept in float64: beside 1 it is lost, and its products with others
are normal numbers; an exponential that is none takes much longer."""


@dataclass(frozen=True)
class QuantileRules:
    """The places beyond which a tail is computed in another way, and when a root search ends.

    Arguments:
        no_share: Logarithm of a component's share of a probability below which it is lost in rounding.
        direct_log: Logarithm of a probability above which the probability itself is a number in float64.
        small: A probability of at least this much keeps enough digits as 1 minus the other.
        tail_steps: Newton's steps for the quantile of a probability that is no number.
        far_square: Quantiles beyond this have squares whose difference has lost its digits: slopes are taken
            from ratios.
        far: Quantiles beyond this belong to probabilities that are hardly numbers in float64.
        farthest_error: Arguments of the error function beyond this are cut there: its complement is 10^-252,
            which is lost beside the probability of any quantile up to `far`, and so is
        lowest_density_log: the exponential of this, which is put for smaller densities.
        steps: Most steps of a root search.
        settled: Relative change of a root at which its search ends.
        last_gap: Error in log-probability below which one more step of Halley's method is the last one: it
            leaves about the cube of that error.
        most_bent: Largest absolute value of Halley's term b, where a Newton step is divided by 1 - b.
    """

    no_share: float = -37.0
    direct_log: float = -500.0
    small: float = 1e-3
    tail_steps: int = 4
    far_square: float = 1e4
    far: float = 30.0
    farthest_error: float = 24.0
    lowest_density_log: float = -600.0
    steps: int = 100
    settled: float = 4e-15
    last_gap: float = 1e-5
    most_bent: float = 0.5


rules = QuantileRules()

Tail = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def quantile_of_shares(u: Tensor, w: Tensor, log_w: Tensor) -> Tensor:
    """Phi^{-1}(sum_k w_k Phi(u_k)) over dimension 1, by the smaller of both tails."""
    if u.requires_grad or is_transformed(u):  # an infinite quantile would have no derivative, wanted or not
        return quantile_by_logarithms(u, log_w)
    below = _probability(u, w)
    above = 1 - below
    small = (above < rules.small).any(dim=1)
    if bool(small.any()):
        above[small] = _probability(-u[small], w[small])
    tail = torch.special.ndtri(torch.minimum(below, above))
    y = torch.where(below < above, tail, -tail)
    far = (torch.minimum(below, above) < math.exp(rules.direct_log)).any(dim=1)
    if bool(far.any()):
        y[far] = quantile_by_logarithms(u[far], log_w[far])
    return y


def _probability(u: Tensor, w: Tensor) -> Tensor:
    """sum_k w_k Phi(u_k) over dimension 1."""
    return _twice_probabilities(u).mul_(w).sum(dim=1).mul_(0.5)


def _twice_probabilities(u: Tensor) -> Tensor:
    """2 Phi(u), at least 10^-252: what is no normal number, or has such products, takes far longer."""
    return (u * -math.sqrt(0.5)).clamp_(-rules.farthest_error, rules.farthest_error).erfc_()


def quantile_by_logarithms(u: Tensor, log_w: Tensor) -> Tensor:
    """The same where a probability may be no number in float64, and where it is differentiated."""
    below = log_sum_exp(log_w + torch.special.log_ndtr(u))
    above = log_sum_exp(log_w + torch.special.log_ndtr(-u))
    tail = _normal_quantile(torch.minimum(below, above))
    return torch.where(below < above, tail, -tail)


def _normal_quantile(log_p: Tensor) -> Tensor:
    """Phi^{-1}(p) for log p <= log 1/2, far into the tail."""
    direct = torch.special.ndtri(log_p.clamp_min(rules.direct_log).exp())
    far = log_p.clamp_max(rules.direct_log)
    z = -(-2 * far.detach()).sqrt()
    for _ in range(rules.tail_steps):  # the last of Newton's steps carries the derivative
        at = z.detach()
        z = at - (torch.special.log_ndtr(at) - far) * _log_mills_ratio(at).exp()
    return torch.where(log_p < rules.direct_log, z, direct)


def _log_mills_ratio(z: Tensor) -> Tensor:
    """log Phi(z)/N(z); where z < 0 without a difference of squares, which has no digits far in the tail."""
    below, above = z.clamp_max(0), z.clamp_min(0)
    of_tail = (torch.special.erfcx(below * -math.sqrt(0.5)) * math.sqrt(math.pi / 2)).log()
    return torch.where(z < 0, of_tail, torch.special.log_ndtr(above) + 0.5 * above.square() + log_root_two_pi)


def component_of(noise: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The component that a row of noise chooses, and the standard normal number that is left of it.

    The component is the quantile of Phi(noise); what is left of that within the component is uniform again.

    Arguments:
        noise: Standard normal, shape `(n, 1)`.
        w: Weights of the components of each row, shape `(n, K)`.

    Returns:
        Both of shape `(n, 1)`.
    """
    position, above = torch.special.ndtr(noise), w.cumsum(dim=1)
    component = torch.searchsorted(above, position * above[:, -1:]).clamp_max(w.shape[1] - 1)
    share = w.gather(1, component)
    left = (position * above[:, -1:] - above.gather(1, component) + share) / share
    half = torch.finfo(noise.dtype).eps
    return component, torch.special.ndtri(left.clamp(half, 1 - half))


def tail_log_slopes(u: Tensor, log_w: Tensor, log_rate: Tensor, y: Tensor) -> Tensor:
    """log dy/dt of y = Phi^{-1}(sum_k w_k Phi(u_k)), shape `(n, p)`, with all its digits far in the tail.

    By the smaller tail, with Mills' ratio m = Phi/N: dy/dt = m(y) sum_k (share of k in the tail) u_k'/m(u_k).

    Arguments:
        u: Shape `(n, K, p)`.
        log_w: log w of each component, up to a number for all of them, shape `(n, K, p)`.
        log_rate: log du_k/dt, shape `(K, p)`.
        y: Shape `(n, p)`.
    """
    side = torch.where(y > 0, -1.0, 1.0).to(y)
    v = side[:, None] * u
    log_share = torch.log_softmax(log_w + torch.special.log_ndtr(v), dim=1)
    slopes = torch.logsumexp(log_share + log_rate - _log_mills_ratio(v), dim=1)
    return slopes + _log_mills_ratio(side * y)


def _counted(z: Tensor, location: Tensor, scale: Tensor, log_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each row the components of largest weight, as many as matter in the row where most do.

    A component does not matter whose whole weight is lost in rounding beside the tail probability of z. All
    components are kept where more than half of them matter.
    """
    least = torch.special.log_ndtr(-z.abs()) + rules.no_share
    count = int((log_w > least[:, None]).sum(dim=1).max()) if len(z) else 0
    if 2 * count > log_w.shape[1] or not count:
        return location, scale, log_w
    chosen = log_w.topk(count, dim=1, sorted=False).indices
    return location.gather(1, chosen), scale.gather(1, chosen), log_w.gather(1, chosen)


def conditional_quantiles(z: Tensor, location: Tensor, scale: Tensor, log_w: Tensor) -> Tensor:
    """The t with sum_k w_k Phi(s_k (t - m_k)) = Phi(z), shape `(n,)`.

    Arguments:
        z: Shape `(n,)`.
        location: m, shape `(n, K)`.
        scale: s, one over standard deviations, shape `(K,)`.
        log_w: log w, shape `(n, K)`.
    """
    location, scales, log_w = _counted(z, location, scale.expand_as(location), log_w)
    t, far = torch.empty_like(z), z.abs() > rules.far
    for rows, way in ((far, _tail_by_logarithms), (~far, _tail)):
        if bool(rows.all()):
            return _solved(way, z, location, scales, log_w)
        if bool(rows.any()):
            t[rows] = _solved(way, z[rows], location[rows], scales[rows], log_w[rows])
    return t


def _solved(tail_of: Tail, z: Tensor, location: Tensor, scale: Tensor, log_w: Tensor) -> Tensor:
    """Halley's method on the logarithm of the smaller tail, safeguarded by bisection.

    The root lies between the least and the greatest of the components' own quantiles. A step that leaves
    this bracket, or that is longer than half the step before the last, is a bisection instead: between two
    narrow components Halley's steps can lead to and fro for ever. A row that has settled is left as it is, so
    that its number does not depend on the others. Source of the safeguard: Brent (1973), "Algorithms for
    Minimization without Derivatives", ch. 4.
    """
    side, goal = torch.where(z > 0, -1.0, 1.0).to(z), torch.special.log_ndtr(-z.abs())
    quantiles, w = location + z[:, None] / scale, log_w.exp()
    low, high = quantiles.min(dim=1).values, quantiles.max(dim=1).values
    t = (w * quantiles).sum(dim=1).clamp(low, high)
    rate, shares = side[:, None] * scale, log_w if tail_of is _tail_by_logarithms else w
    left = torch.arange(len(z), device=z.device)
    going, last = torch.ones_like(left, dtype=torch.bool), high - low
    before = 2 * last
    for _ in range(rules.steps):
        at = t[left]
        log_tail, slope, curvature = tail_of((at[:, None] - location).mul_(rate), rate, shares)
        gap = log_tail - goal[left]
        too_low = gap * side[left] < 0
        low[left], high[left] = torch.where(too_low, at, low[left]), torch.where(too_low, high[left], at)
        bend = (0.5 * gap * (curvature / slope - slope) / slope).clamp(-rules.most_bent, rules.most_bent)
        ahead = at - side[left] * gap / slope / (1 - bend)
        trusted = (ahead >= low[left]) & (ahead <= high[left]) & (2 * (ahead - at).abs() <= before)
        found = torch.where(trusted, ahead, 0.5 * (low[left] + high[left]))
        t[left] = torch.where(going, found, at)
        before, last = last, (found - at).abs()
        going &= ~(trusted & (gap.abs() < rules.last_gap)) & (last > rules.settled * (1 + at.abs()))
        n_going = int(going.sum())
        if not n_going:
            break
        if 2 * n_going < len(left):
            left, rate, location, shares, before, last = (
                rows[going] for rows in (left, rate, location, shares, before, last)
            )
            going = going[going]
    return t


def _tail(v: Tensor, rate: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L = log sum_k w_k Phi(v_k), |dL/dt| and the second derivative of the sum over the sum, `(n,)` each."""
    buffer = _twice_probabilities(v)
    probability = buffer.mul_(w).sum(dim=1).mul_(0.5)
    density = torch.mul(v, v, out=buffer).mul_(-0.5).clamp_min_(rules.lowest_density_log).exp_()
    density = density.mul_(w).mul_(rate)
    slope = density.sum(dim=1).abs().mul_(_height_of_normal)
    curvature = v.mul_(rate).mul_(density).sum(dim=1).mul_(-_height_of_normal)
    return probability.log(), slope / probability, curvature / probability


def _tail_by_logarithms(v: Tensor, rate: Tensor, log_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same where the probability is no number in float64."""
    log_probability = torch.logsumexp(log_w + torch.special.log_ndtr(v), dim=1)
    shares = torch.exp(log_w - 0.5 * v.square() - log_root_two_pi - log_probability[:, None])
    density = rate * shares
    return log_probability, density.sum(dim=1).abs(), -(v * rate * density).sum(dim=1)

r"""Conditional mixtures of a group of columns, by what a network says of them, the backward pass by hand.

    p(x_i | x_<i) = sum_k w_ik N(x_i; l_i s_k + sigma_ik (mu_ik + delta_ig), sigma_ik^2 tau_ig^2)
    w_ik          = softmax_k(log_w_ik + lambda_ik),    tau = exp(b tanh(eta/b)),    g the kind of component k

lambda, delta and eta are the network's; log_w, mu and sigma the column's own; l_i is what a linear regression
on the columns before it says. A component is fixed (s_k = 0: a spike, a cluster) or moves with the regression
(s_k = 1). A network that says nothing leaves the mixtures that the columns started with.

With r_k the share of component k at x_i and z_k its standardised distance, the gradient of log p is

    lambda_k: r_k - w_k     delta_g: sum_k r_k z_k / tau     log tau_g: sum_k r_k (z_k^2 - 1)
    l:        sum_k s_k r_k z_k / (sigma_k tau)
    log sigma_k: r_k (z_k^2 - 1 + z_k (mu_k + delta_g) / tau)

Source: Bishop (1994), "Mixture density networks", Aston University NCRG/94/004; Germain, Gregor, Murray &
Larochelle (2015), arXiv 1502.03509, for conditionals by a masked network; the two kinds of components are
ours.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from jkoflow.blocks.log_sums import shares_of_sum
from jkoflow.blocks.mixture_quantile import log_root_two_pi

__all__ = ["Columns", "Components", "components_of", "log_densities", "n_outputs"]


class Columns(NamedTuple):
    """What the mixtures of a group of m columns have of their own.

    Arguments:
        log_w: Logarithms of weights up to a number for each column, shape `(K, m)`.
        mean: mu, in standard deviations of the component, shape `(K, m)`.
        log_scale: log sigma, shape `(K, m)`.
    """

    log_w: Tensor
    mean: Tensor
    log_scale: Tensor


class Components(NamedTuple):
    """The conditional mixtures of some rows and columns, spelled out.

    Arguments:
        log_w: Logarithms of weights of sum 1, shape `(n, K, m)`.
        location: Shape `(n, K, m)`.
        log_scale: Logarithms of standard deviations, shape `(n, K, m)`.
    """

    log_w: Tensor
    location: Tensor
    log_scale: Tensor


def n_outputs(n_components: int) -> int:
    """Numbers that a network says of one column: K weights, and a shift and a scale of each kind."""
    return n_components + 4


def components_of(said: Tensor, linear: Tensor, own: Columns, *, n_fixed: int, reach: float) -> Components:
    """The mixtures spelled out, by plain operations that torch can differentiate.

    Arguments:
        said: What the network says, shape `(n, K + 4, m)`.
        linear: The regression of each column on those before it, shape `(n, m)`.
        own: The columns' own mixtures.
        n_fixed: Number of fixed components; the others move with the regression.
        reach: b, the most that the network may add to or take from a log-scale.
    """
    k = len(own.log_w)
    kinds = torch.tensor([0] * n_fixed + [1] * (k - n_fixed), device=said.device)
    log_tau = reach * torch.tanh(said[:, k + 2 :] / reach)
    shift = own.mean + said[:, k : k + 2][:, kinds]
    moved = linear[:, None] * kinds.to(linear)[:, None]
    return Components(
        torch.log_softmax(own.log_w + said[:, :k], dim=1),
        moved + own.log_scale.exp() * shift,
        own.log_scale + log_tau[:, kinds],
    )


def log_densities(
    said: Tensor, x: Tensor, linear: Tensor, own: Columns, *, n_fixed: int, reach: float
) -> Tensor:
    """log p(x_i | x_<i), shape `(n, m)`, nats; once differentiable in everything but `x`.

    Arguments:
        said: What the network says, shape `(n, K + 4, m)`.
        x: The columns, shape `(n, m)`, a constant.
        linear: The regression of each column on those before it, shape `(n, m)`.
        own: The columns' own mixtures.
        n_fixed: Number of fixed components.
        reach: b.
    """
    found: Tensor = _LogDensities.apply(said, x, linear, *own, n_fixed, reach)  # type: ignore[no-untyped-call]  # torch's own
    return found


class _LogDensities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        said: Tensor,
        x: Tensor,
        linear: Tensor,
        log_w: Tensor,
        mean: Tensor,
        log_scale: Tensor,
        n_fixed: int,
        reach: float,
    ) -> Tensor:
        k = len(log_w)
        bend = torch.tanh(said[:, k + 2 :] / reach)
        log_tau = reach * bend
        rate = torch.exp(-log_tau)  # 1/tau, (n, 2, m)
        # z = ((x - s l) / sigma - mu - delta) / tau, one slab (n, m) a component
        z, inverse = torch.empty_like(said[:, :k]), torch.exp(-log_scale)
        bases = (x, x - linear)
        for j in range(k):
            g = int(j >= n_fixed)
            slab = torch.mul(bases[g], inverse[j], out=z[:, j])
            slab.sub_(mean[j]).sub_(said[:, k + g]).mul_(rate[:, g])
        weights = said[:, :k] + log_w
        heights = z.square().mul_(-0.5).add_(weights).sub_(log_scale)
        heights[:, :n_fixed].sub_(log_tau[:, :1])
        heights[:, n_fixed:].sub_(log_tau[:, 1:])
        shares, joint = shares_of_sum(heights)
        weights, total = shares_of_sum(weights)
        if any(ctx.needs_input_grad):
            shift = said[:, k : k + 2].clone()
            ctx.save_for_backward(z, shares, weights, rate, bend, inverse, shift, mean)
            ctx.n_fixed = n_fixed
        return (joint - total).squeeze(1).sub_(log_root_two_pi)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        z, shares, weights, rate, bend, inverse, shift, mean = ctx.saved_tensors
        (n, k, m), n_fixed = z.shape, ctx.n_fixed
        g_said = z.new_empty(n, k + 4, m)
        g_shares = g[:, None] * shares
        torch.sub(g_shares, weights.mul_(g[:, None]), out=g_said[:, :k])
        pull = torch.mul(g_shares, z)  # g r z
        spread = torch.mul(pull, z).sub_(g_shares)  # g r (z^2 - 1)
        g_log_scale = spread.sum(dim=0)
        for kind, part in enumerate((slice(0, n_fixed), slice(n_fixed, k))):
            pull[:, part].mul_(rate[:, kind : kind + 1])  # g r z / tau
            g_said[:, k + kind] = pull[:, part].sum(dim=1)
            g_said[:, k + 2 + kind] = spread[:, part].sum(dim=1)
            g_log_scale[part] += (pull[:, part] * shift[:, kind : kind + 1]).sum(dim=0)
        g_said[:, k + 2 :].mul_(1 - bend.square())
        g_mean, g_log_w = pull.sum(dim=0), g_said[:, :k].sum(dim=0)
        g_linear = (pull[:, n_fixed:] * inverse[n_fixed:]).sum(dim=1)
        return g_said, None, g_linear, g_log_w, g_mean, g_log_scale.addcmul_(mean, g_mean), None, None

r"""The closed-form start of conditional mixtures: a linear regression, and each column's own mixture by EM.

    x_i = sum_{j<i} a_ij x_j + e_i  (from the shrunk covariance),
    p(x_i | x_<i) = sum_k w_ik N(x_i; mu_ik, s_ik^2) + sum_k w'_ik N(x_i; a_i x_<i + mu'_ik, s'_ik^2)

The fixed components start at quantiles of the column, the moving ones at the regression with standard
deviations from a tenth to three times that of e_i; EM decides column by column which of them are of use.

Source: Dempster, Laird & Rubin (1977), J. R. Stat. Soc. B 39(1), for EM.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jkoflow.blocks.autoregressive.conditionals import Conditionals
from jkoflow.blocks.log_sums import shares_of_sum
from jkoflow.laws import Background
from jkoflow.particles import Moments, Particles

__all__ = ["StartRules", "start_conditionals"]


@dataclass(frozen=True)
class StartRules:
    """How conditional mixtures start.

    Arguments:
        moment_rows: Rows, the first ones, that the regression is taken from.
        rows: Rows, the first ones, that EM sees.
        iterations: Iterations of EM.
        spread: Least and greatest standard deviation of a moving component, in those of what the regression
            leaves, as powers of ten.
        least_scale: Least standard deviation of a component, in those of the column.
        least_weight: Rows that every component keeps, so that none dies.
        columns: Columns whose mixtures are fitted at once.
    """

    moment_rows: int = 50_000
    rows: int = 2000
    iterations: int = 12
    spread: tuple[float, float] = (-1.0, 0.5)
    least_scale: float = 3e-4
    least_weight: float = 1e-2
    columns: int = 64


@torch.no_grad()
def start_conditionals(
    conditionals: Conditionals, rows: Particles, background: Background, rules: StartRules | None = None
) -> None:
    """Set regression and mixtures to those of `rows`, in place; the network still says nothing.

    Arguments:
        conditionals: To be trained on the rows.
        background: The components for values unlike any other.
        rows: Training rows, with their context, weights and processes.
        rules: See `StartRules`.
    """
    rules = rules or StartRules()
    first = rows.rows(slice(0, rules.moment_rows))
    x = first.x if first.context is None else torch.cat([first.context, first.x], dim=1)
    joint = Particles(x, None, first.weight)
    moments = Moments.of(joint)
    c, like = conditionals.shape.context_dim, conditionals.centre
    factor = torch.linalg.cholesky(moments.shrunk)
    inverse = torch.linalg.inv(factor).tril()[c:]
    left = factor.diagonal()[c:]
    regression = -(left[:, None] * inverse) * conditionals.earlier
    conditionals.centre.copy_(moments.mean)
    conditionals.whitening.copy_(inverse)
    conditionals.regression.copy_(regression)
    spread = moments.covariance.diagonal()[c:].sqrt()
    deviations, shares = background.components()
    weights = background.share(rows.effective_rows) * torch.tensor(shares, dtype=torch.float64)
    conditionals.wide_log_w.copy_(weights.log())
    conditionals.wide_scale.copy_(torch.tensor(deviations).to(spread)[:, None] * spread)
    conditionals.wide_centre.copy_(moments.mean[c:])
    part = joint.rows(slice(0, rules.rows))
    linear = ((part.x.double() - moments.mean) @ regression.T).to(like)
    for start in range(0, conditionals.shape.dim, rules.columns):
        columns = slice(start, start + rules.columns)
        x, widths = part.x[:, c:][:, columns], (spread[columns].to(like), left[columns].to(like))
        found = _mixtures(conditionals, part, x, linear[:, columns], *widths, rules)
        for stored, value in zip(
            (conditionals.log_w, conditionals.mean, conditionals.log_scale), found, strict=True
        ):
            stored[:, columns] = value.to(like)


def _mixtures(
    conditionals: Conditionals,
    part: Particles,
    x: Tensor,
    linear: Tensor,
    spread: Tensor,
    left: Tensor,
    rules: StartRules,
) -> tuple[Tensor, Tensor, Tensor]:
    """log w, mu in standard deviations of the component, and log sigma of some columns, `(K, m)` each."""
    n_fixed, n_moving = conditionals.shape.n_fixed, conditionals.shape.n_moving
    k = n_fixed + n_moving
    share = (torch.arange(n_fixed, dtype=x.dtype, device=x.device) + 0.5) / max(n_fixed, 1)
    fixed = torch.quantile(x, share, dim=0) if n_fixed else x[:0]
    mean = torch.cat([fixed, x.new_zeros(n_moving, x.shape[1])])
    steps = torch.logspace(*rules.spread, n_moving, dtype=x.dtype, device=x.device)
    own = (2 * spread / max(n_fixed, 1)).expand(n_fixed, -1)
    scale = torch.cat([own, steps[:, None] * left])
    least = rules.least_scale * spread
    w = torch.full_like(mean, 1 / k)
    moved = torch.cat([x.new_zeros(n_fixed), x.new_ones(n_moving)])[:, None]
    y = x[:, None] - moved * linear[:, None]
    weight = x.new_ones(len(x)) if part.weight is None else part.weight.to(x)
    for _ in range(rules.iterations):
        heights = -0.5 * ((y - mean) / scale).square() - scale.log() + w.log()
        found = shares_of_sum(heights)[0].mul_(weight[:, None, None])
        counts = found.sum(dim=0) + rules.least_weight
        mean = (found * y).sum(dim=0) / counts
        scale = ((found * (y - mean).square()).sum(dim=0) / counts).sqrt()
        scale = torch.maximum(scale, least)
        w = counts / counts.sum(dim=0)
    return w.log(), mean / scale, scale.log()

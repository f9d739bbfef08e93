r"""A simulation-free start of a block: regression of its velocity on the Ornstein-Uhlenbeck path of its step.

    min_v  E |v(x_t, t) - u_t|^2,   (x_t, u_t) the path of `laws.ornstein_uhlenbeck`, x ~ p_{n-1}, z ~ N(0, I)

The velocity field of the path, -x - grad log rho, is the Wasserstein gradient flow of KL(.|q), of which the
proximal step is one implicit Euler step. Rows come in pairs of the same x and t and opposite z (antithetic
variates, Hammersley & Morton 1956). Each of a pair has the law that is asked for, and most of the gradient's
noise, z times what the field has in common at both positions, cancels: at a small theta, where v is small
beside u_t, nearly all of it.

Source: regressing each block on its own short path is local flow matching (Xu, Cheng & Xie 2024, arXiv
2410.02548), here with q's own path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jkoflow.blocks.ode.velocity import VelocityField
from jkoflow.laws.ornstein_uhlenbeck import ou_angle, ou_path
from jkoflow.particles import Particles
from jkoflow.recipe import DescentSettings
from jkoflow.steps.descent import Descent, descend
from jkoflow.steps.step import Step

__all__ = ["OU_PATH", "Path", "opposite_pairs", "regress", "stratified_times"]


@dataclass(frozen=True)
class Path:
    """Curves from rows x to noise z, and the velocity along them.

    Arguments:
        scale: Size of the velocity on a step of size gamma, by which it is divided.
        at: Position and velocity over that size, `(n, d)` each, from x, z `(n, d)`, t `(n, 1)` and the size.
    """

    scale: Callable[[float], float]
    at: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]


OU_PATH = Path(ou_angle, ou_path)
"""The path of the Ornstein-Uhlenbeck process, as far as a step goes on it."""


def regress(velocity: VelocityField, step: Step, settings: DescentSettings, path: Path = OU_PATH) -> Descent:
    """Fit a block's velocity to the path of its step, in place; the best on validation rows is kept.

    Arguments:
        velocity: The field of the block to start, untrained.
        step: The step.
        settings: Updates, batch (both of a pair counted) and rate.
        path: The path.
    """
    scale, generator = path.scale(step.gamma), step.stream("warm_start")

    def mismatch(pairs: Particles, noise: Tensor, time: Tensor) -> Tensor:
        position, target = path.at(pairs.x, noise, time, scale)
        gap = velocity.forward(position, time, pairs.context) / scale - target
        return gap.square().mean() if pairs.weight is None else pairs.average(gap.square().mean(dim=1))

    def loss() -> Tensor:
        return mismatch(*opposite_pairs(step.train.draw(max(1, settings.batch // 2), generator), generator))

    validation, rules = step.validation, step.recipe.updates
    most = rules.judged_pairs
    repeats = max(1, min(rules.judged_repeats, most // len(validation)))
    index = torch.arange(len(validation)).repeat(repeats)[:most].to(validation.x.device)
    fixed = opposite_pairs(validation.rows(index), generator)
    return descend(
        velocity,
        loss=loss,
        evaluate=lambda: float(mismatch(*fixed).detach()),
        settings=settings,
        block=step.number,
        stop=lambda updates: step.stop("warm_start", updates),
    )


def opposite_pairs(rows: Particles, generator: torch.Generator) -> tuple[Particles, Tensor, Tensor]:
    """Each row twice, at one time, with a noise and its opposite: `(2 n, d)`, `(2 n, d)`, `(2 n, 1)`."""
    noise = torch.randn(rows.x.shape, generator=generator, dtype=rows.x.dtype).to(rows.x.device)
    time = stratified_times(rows.x, generator)
    weight = None if rows.weight is None else rows.weight.repeat(2)
    context = None if rows.context is None else rows.context.repeat(2, 1)
    twice = Particles(rows.x.repeat(2, 1), context, weight)
    return twice, torch.cat([noise, -noise]), time.repeat(2, 1)


def stratified_times(x: Tensor, generator: torch.Generator) -> Tensor:
    """One uniform time in each of n equal intervals of [0, 1], in random order, shape `(n, 1)`."""
    n = len(x)
    times = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
    return times[:, None].to(x)

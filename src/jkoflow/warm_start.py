r"""A simulation-free start of a block: regression on the Ornstein-Uhlenbeck path of its step.

    x_t = cos(theta t) x + sin(theta t) z,   u_t = theta (cos(theta t) z - sin(theta t) x),   z ~ N(0, I)
    min_v  E |v(x_t, t) - u_t|^2,            cos(theta) = (1 + gamma)^{-1/2}

Rows come in pairs of the same x and t and opposite z (antithetic variates, Hammersley & Morton 1956). Each of
a pair has the law that is asked for, and most of the gradient's noise, z times what the field has in common
at both positions, cancels: at a small theta, where v is small beside u_t, nearly all of it.

The law of x_t is the OU process (6) at time -log cos(theta t), run from p_{n-1}; its velocity field -x -
grad log rho is the Wasserstein gradient flow of KL(.|q), of which the proximal step is one implicit Euler
step. This theta is the one at which both leave a direction without spread at variance gamma/(1 + gamma), the
fine structure that a step is there to resolve. A free step has theta = pi/2 and ends at q itself.

Source: the path is eq. (6) and (9) of Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582; regressing each block
on its own short path is local flow matching (Xu, Cheng & Xie 2024, arXiv 2410.02548), here with q's own
path.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from jkoflow.blocks import NeuralODEBlock
from jkoflow.descent import Descent, DescentSettings, descend
from jkoflow.particles import Particles

__all__ = ["ou_angle", "ou_path", "warm_start"]

_VALIDATION_PAIRS = 4096


def ou_angle(gamma: float) -> float:
    """theta in (0, pi/2]: how far along the OU path a step of size `gamma` goes."""
    return math.acos((1 + gamma) ** -0.5) if math.isfinite(gamma) else math.pi / 2


def ou_path(x: Tensor, z: Tensor, t: Tensor, theta: float) -> tuple[Tensor, Tensor]:
    """Position x_t and velocity u_t / theta of the path, each `(n, d)`, at times `t` `(n, 1)`."""
    cosine, sine = torch.cos(theta * t), torch.sin(theta * t)
    return cosine * x + sine * z, cosine * z - sine * x


def warm_start(
    block: NeuralODEBlock,
    train: Particles,
    validation: Particles,
    *,
    settings: DescentSettings,
    generator: torch.Generator,
    number: int,
    stop: Callable[[int], bool],
) -> Descent:
    """Fit the block's velocity to the OU path from `train`, in place; the best on `validation` is kept.

    Arguments:
        block: The block to start, untrained.
        train: Samples of p_{n-1}.
        validation: Held-out samples of p_{n-1}.
        settings: Updates, batch (both of a pair counted) and rate.
        generator: Source of rows, noise and times.
        number: The block's number, for messages.
        stop: See `descend`.
    """
    theta = ou_angle(block.gamma)
    velocity = block.velocity

    def mismatch(pairs: Particles, noise: Tensor, time: Tensor) -> Tensor:
        position, target = ou_path(pairs.x, noise, time, theta)
        return (velocity.forward(position, time, pairs.context) / theta - target).square().mean()

    def loss() -> Tensor:
        return mismatch(*_opposite_pairs(train.draw(max(1, settings.batch // 2), generator), generator))

    repeats = max(1, min(8, _VALIDATION_PAIRS // len(validation)))
    index = torch.arange(len(validation)).repeat(repeats)[:_VALIDATION_PAIRS].to(validation.x.device)
    fixed = _opposite_pairs(validation.rows(index), generator)
    return descend(
        velocity,
        loss=loss,
        evaluate=lambda: float(mismatch(*fixed).detach()),
        settings=settings,
        block=number,
        stop=stop,
    )


def _opposite_pairs(rows: Particles, generator: torch.Generator) -> tuple[Particles, Tensor, Tensor]:
    """Each row twice, at one time, with a noise and its opposite: `(2 n, d)`, `(2 n, d)`, `(2 n, 1)`."""
    noise, time = _noise_like(rows.x, generator), _stratified_times(rows.x, generator)
    twice = Particles(rows.x.repeat(2, 1), None if rows.context is None else rows.context.repeat(2, 1))
    return twice, torch.cat([noise, -noise]), time.repeat(2, 1)


def _noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)


def _stratified_times(x: Tensor, generator: torch.Generator) -> Tensor:
    """One uniform time in each of n equal intervals of [0, 1], in random order, shape `(n, 1)`."""
    n = len(x)
    times = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
    return times[:, None].to(x)

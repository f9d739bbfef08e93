"""The JKO flow with its published recipe: each block on the proximal objective, one probe for the trace.

    gamma_k = 0.25 · 1.4^k,    RK4 in 3 steps,    Adam 1e-4,    batch 2000

Source: Xu, Cheng & Xie (2023), arXiv 2212.14424; our own code from the description
(speed/published_recipe.py). The budget is divided evenly over six blocks, each keeping the weights with
the least proximal objective on validation rows; the density scored is that of the continuous flow, as for
all contenders with velocities.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from density import Reals, seeded, split
from timed_descent import Clock, batches, descend
from torch import Tensor
from trace_integral import ContinuousFlow, Segment, Velocity, in_double

sys.path.append(str(Path(__file__).parents[2] / "speed"))

from published_recipe import (
    BATCH,
    LEARNING_RATE,
    PublishedBlock,
    PublishedVelocity,
    proximal_loss,
)

SETTINGS_TRIED = 1
BLOCKS, FIRST_STEP, GROWTH = 6, 0.25, 1.4


def fit(train: Reals, *, budget: float, seed: int) -> ContinuousFlow:
    """Fit to the rows."""
    clock, dim = Clock(budget), train.shape[1]
    fitted, held_out = (torch.as_tensor(part, dtype=torch.float32) for part in split(train, seed))
    blocks = []
    with seeded(seed):
        for k in range(BLOCKS):
            block = PublishedBlock(dim)
            share = Clock(max(clock.remaining(), 0.0) / (BLOCKS - k))
            _train(block, fitted, held_out, FIRST_STEP * GROWTH**k, clock=share, seed=seed + k)
            with torch.no_grad():
                fitted, held_out = block.push(fitted), block.push(held_out)
            blocks.append(block)
    return ContinuousFlow([Segment(_velocity(block), 0.0, 1.0) for block in blocks], dim)


def _train(
    block: PublishedBlock, fitted: Tensor, held_out: Tensor, gamma: float, *, clock: Clock, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    draws = batches(fitted, BATCH, generator)

    def loss() -> Tensor:
        return proximal_loss(block, next(draws), gamma, generator)

    def validation() -> float:
        return float(proximal_loss(block, held_out, gamma, torch.Generator().manual_seed(0)))

    descend(block, loss, validation, clock=clock, rate=LEARNING_RATE, cosine=False)


def _velocity(block: PublishedBlock) -> Velocity:
    velocity = in_double(block.velocity)
    assert isinstance(velocity, PublishedVelocity)
    return lambda t, x: velocity(x, t)

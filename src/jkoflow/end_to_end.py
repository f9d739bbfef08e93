r"""Trains all blocks of a flow at once on the likelihood of the discrete map.

    min  E[V(T_N o ... o T_1(x))] - sum_n E[log|det dT_n(x_{n-1})|]

The same stack as the progressive fit, so that the two can be compared; and a polish of a finished flow.
What is descended on is the determinant of the discrete map where it can be afforded, since a trace
integrated with few steps can be driven below any bound by its quadrature error, and what is judged is that
determinant with a price on folds. Memory grows with the number of blocks.

Source: the objective is that of FFJORD (Grathwohl et al. 2019, arXiv 1810.01367) on the map of Cheng, Lu,
Tan & Xie (2024), arXiv 2310.17582, eq. (38).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from jkoflow.blocks import DETERMINANT_DIM, Block, NeuralODEBlock
from jkoflow.descent import Descent, DescentSettings, descend
from jkoflow.flow import Flow
from jkoflow.objective import push_penalised, push_with_log_det_by
from jkoflow.particles import Particles
from jkoflow.solver_steps import judged_rows, unfolded

__all__ = ["train_end_to_end"]


def train_end_to_end(
    flow: Flow,
    train: Particles,
    validation: Particles,
    *,
    settings: DescentSettings,
    divergence: str,
    generator: torch.Generator,
    stop: Callable[[int], bool] = lambda updates: False,
) -> tuple[Flow, Descent]:
    """A new flow with every block refined; `flow` stays as it is.

    Arguments:
        flow: The stack to start from.
        train: Samples of p_0.
        validation: Held-out samples of p_0; the best weights on them are kept.
        settings: Updates, batch and rate.
        divergence: How training sees the log-determinant; see `objective.DIVERGENCES`.
        generator: Source of rows and probes.
        stop: See `descend`.
    """
    refined = copy.deepcopy(flow)
    for block in refined:
        for parameter in block.parameters():
            parameter.requires_grad_(True)
    push = push_with_log_det_by(divergence, dim=flow.dim, generator=generator)
    judged = judged_rows(validation)
    # beyond, the trace is what a block is scored by, which cannot tell a fold
    push_judged = push_penalised if flow.dim <= DETERMINANT_DIM else push

    def loss() -> Tensor:
        batch = train.draw(settings.batch, generator)
        total = batch.x.new_zeros(len(batch))
        for block in refined:
            y, log_det = push(block, batch)
            batch, total = Particles(y, batch.context), total + log_det
        return (flow.base.potential(batch.x) - total).mean()

    def evaluate() -> float:
        latent, log_det = refined.push_with_log_det(judged.x, judged.context, push=push_judged)
        return -float((flow.base.log_prob(latent.double()) + log_det).mean())

    done = descend(refined, loss=loss, evaluate=evaluate, settings=settings, block=1, stop=stop)
    return Flow(flow.base, _unfolded(refined, judged)), done


def _unfolded(blocks: Iterable[Block], rows: Particles) -> list[Block]:
    """The blocks, with more solver steps where one folds among the rows that reach it."""
    found = list[Block]()
    for block in blocks:
        finer = unfolded(block, rows) if isinstance(block, NeuralODEBlock) else block
        rows = rows.map(finer.push)
        found.append(finer)
    return found

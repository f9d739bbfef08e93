r"""`objective="end_to_end"`: all blocks of a flow at once, on the likelihood of the discrete map.

    min  E[V(T_N o ... o T_1(x))] - sum_n E[log|det dT_n(x_{n-1})|]

It trains the same stack of blocks as the progressive fit, so that the two can be compared. With
`divergence="auto"` the loss uses the determinant of the discrete map up to 3 columns and a trace estimate
beyond. A trace integrated with few steps can be driven below any bound by its quadrature error, so that
validation is by the determinant, folds penalised, up to 128 columns. Memory grows with the number
of blocks.

Source: the objective is that of FFJORD (Grathwohl et al. 2019, arXiv 1810.01367) on the map of Cheng, Lu,
Tan & Xie (2024), arXiv 2310.17582, eq. (38).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor

from jkoflow.blocks import Block
from jkoflow.blocks.log_det import push_penalised, push_with_log_det_by
from jkoflow.flow import Flow
from jkoflow.journal import Solution
from jkoflow.methods.base import Job, schedule_of
from jkoflow.recipe import DescentSettings
from jkoflow.steps import State, Step, take
from jkoflow.steps.descent import Descent, descend

__all__ = ["end_to_end", "train_end_to_end"]


def end_to_end(state: State, job: Job) -> State:
    """The same stack of blocks, trained at once; then taken one by one, so that the record is the same."""
    gammas = schedule_of(state, job, room=job.settings.max_blocks).gammas

    @cache
    def trained() -> tuple[list[Block], Descent]:
        flow, done = _trained(state, gammas, job)
        return list(flow), done

    def solve(number: int) -> Solution:
        blocks, done = trained()
        updates = {"end_to_end": done.updates}
        return Solution.found(blocks[number - 1], "end_to_end", updates=updates, retries=done.retries)

    after = state
    for number in range(1, len(gammas) + 1):
        taking = partial(take, after, round_number=0)
        after = job.journal.step(number, 0, solve=partial(solve, number), take=taking)
    return after


def _trained(state: State, gammas: tuple[float, ...], job: Job) -> tuple[Flow, Descent]:
    """All blocks, in one descent from the identity."""
    flow, runtime, recipe = state.flow, job.runtime, job.recipe
    for number, gamma in enumerate(gammas, start=1):
        step = Step(number, gamma, state.train, state.validation, state.functional, runtime)
        generator = step.stream("initial_weights")
        flow = flow.then(job.family.new(state.train, gamma, generator=generator))
    settings = recipe.updates.end_to_end(len(state.train))
    if job.journal.limited:  # all blocks in one descent: the budget is asked often enough to be kept
        often, before = recipe.budget.end_to_end_checkpoints, settings.checkpoints
        settings = replace(settings, updates=recipe.budget.updates[1], checkpoints=often)
        settings = replace(settings, patience=settings.patience * often // before)
    stop = job.journal.stop_at(0)
    return train_end_to_end(
        flow,
        Step(0, gammas[-1], state.train, state.validation, state.functional, runtime, recipe=recipe),
        settings=settings,
        divergence=job.settings.divergence,
        generator=runtime.stream("end_to_end"),
        stop=lambda updates: stop("end_to_end", updates),
    )


def train_end_to_end(
    flow: Flow,
    step: Step,
    *,
    settings: DescentSettings,
    divergence: str,
    generator: torch.Generator,
    stop: Callable[[int], bool] = lambda updates: False,
) -> tuple[Flow, Descent]:
    """A new flow with every block refined; `flow` stays as it is.

    Arguments:
        flow: The stack to start from.
        step: Samples of p_0, validation ones, on which the best weights are kept, and how blocks are judged.
        settings: Updates, batch and rate.
        divergence: How training sees the log-determinant; see `blocks.log_det.DIVERGENCES`.
        generator: Source of rows and probes.
        stop: See `descend`.
    """
    refined = copy.deepcopy(flow)
    for block in refined:
        for parameter in block.parameters():
            parameter.requires_grad_(True)
    push = push_with_log_det_by(divergence, dim=flow.dim, generator=generator)
    judged = step.judge.rows
    # beyond, the trace is what a block is scored by, which cannot tell a fold
    push_judged = push_penalised if flow.dim <= step.judge.check.largest_dim else push

    def loss() -> Tensor:
        batch = step.train.draw(settings.batch, generator)
        total = batch.x.new_zeros(len(batch))
        for block in refined:
            y, log_det = push(block, batch)
            batch, total = batch.at(y), total + log_det
        return (flow.law.potential(batch.x) - total).mean()

    def evaluate() -> float:
        latent, log_det = refined.push_with_log_det(judged.x, judged.context, push=push_judged)
        return -judged.mean(flow.law.log_prob(latent.double()) + log_det)

    done = descend(
        refined,
        loss=loss,
        evaluate=evaluate,
        settings=settings,
        block=None,
        stop=stop,
    )
    return Flow(flow.law, _unfolded(refined, step)), done


def _unfolded(blocks: Flow, step: Step) -> list[Block]:
    """The blocks, with more solver steps where one folds among the rows that reach it."""
    found, judge = list[Block](), step.judge
    for block in blocks:
        finer = block.unfolded(judge)
        judge = replace(judge, rows=judge.rows.map(finer.push))
        found.append(finer)
    return found

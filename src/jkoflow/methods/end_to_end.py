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
    return replace(after, ended="the descent of all blocks at once is at its end")


def _trained(state: State, gammas: tuple[float, ...], job: Job) -> tuple[Flow, Descent]:
    """All blocks, in one descent from the identity."""
    flow, runtime, recipe = state.flow, job.runtime, job.recipe
    for number, gamma in enumerate(gammas, start=1):
        step = Step(number, gamma, state.train, state.validation, state.functional, runtime)
        generator = step.stream("initial_weights")
        flow = flow.then(job.family.new(state.train, gamma, generator=generator))
    step = Step(0, gammas[-1], state.train, state.validation, state.functional, runtime, recipe=recipe)
    stop, settings = job.journal.stop_at(0), recipe.updates.end_to_end(len(state.train))

    def train(given: DescentSettings) -> tuple[Flow, Descent]:
        return train_end_to_end(
            flow,
            step,
            settings=given,
            divergence=job.settings.divergence,
            generator=runtime.stream("end_to_end"),
            stop=lambda updates: given is settings and stop("end_to_end", updates),
        )

    if job.journal.limited:  # all blocks are in one descent, whose length is told before it begins
        often = recipe.budget.end_to_end_checkpoints
        patience = settings.patience * often // settings.checkpoints
        settings = replace(settings, checkpoints=often, patience=patience)
        updates = job.journal.decide(
            "updates", lambda: _affordable(replace(state, flow=flow), job, train), kinds=(int,)
        )
        settings = replace(settings, updates=int(updates))
    return train(settings)


def _affordable(state: State, job: Job, train: Callable[[DescentSettings], tuple[Flow, Descent]]) -> int:
    """Updates of all blocks at once in the CPU-seconds that are left beside what comes before and after them.

    One update and three, each judged twice, tell what an update and what a checkpoint costs. After the
    descent come a push of the validation rows by each block and checks that take about twice as long.
    """
    journal, rules, flow = job.journal, job.recipe.budget, state.flow
    settings = job.recipe.updates.end_to_end(len(state.train))

    def seconds(updates: int) -> float:
        return journal.timed(lambda: train(replace(settings, updates=updates, checkpoints=1)))[1]

    few, many = seconds(1), seconds(3)
    update = max((many - few) / 2, 0.1 * few)
    judging = max(few - update, 0.0) / 2
    rows = state.validation.rows(slice(0, max(1, rules.rehearsed_rows // flow.dim)))
    pushed = journal.timed(lambda: flow.push_with_log_det(rows.x, rows.context))[1]
    journal.expect_checks(3 * pushed * len(state.validation) / len(rows))
    journal.look_ahead(state)
    beside = journal.after_descent + rules.end_to_end_checkpoints * judging
    return journal.how_many(update, rules.updates, share=rules.share, beside=beside)


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

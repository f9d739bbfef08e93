"""Blocks that are started by regression: how many a budget has time for, and what trains each.

    blocks = time left / (CPU-seconds of one update × updates that a block needs)

Source: ours, docs/method.md.
"""

from __future__ import annotations

import math
from typing import Any

from jkoflow.journal import UpdateShares
from jkoflow.methods.base import Job
from jkoflow.methods.pilot import Pilot
from jkoflow.steps import State, Step, StepSolver
from jkoflow.steps.solvers import DispatchedSolver, StartedSolver

__all__ = ["affordable_blocks", "shares_of", "started_solver"]


def affordable_blocks(
    most: int, state: State, choice: Pilot, job: Job, *, round_number: int = 0, enough: int | None = None
) -> int:
    """Blocks that a budget leaves time to train; few blocks trained well beat many that are not.

    Arguments:
        most: What is wanted, and what there is without a budget.
        state: Before the first of them.
        choice: What the pilot fits chose and measured.
        job: The fit.
        round_number: Number of the round.
        enough: Updates below which there are fewer blocks instead; None for those of blocks before a closing.
    """
    if not job.journal.limited:
        return most
    rules, limit = job.recipe.budget, job.recipe.updates.regression_updates(len(state.train))
    enough = min(rules.enough_updates if enough is None else enough, limit)
    fewest = 1 if round_number else rules.fewest_blocks
    seconds = choice.seconds * enough
    return int(
        job.journal.decide(
            "blocks",
            lambda: job.journal.how_many(seconds, (fewest, most)),
            kinds=(int,),
            round=round_number,
        )
    )


def shares_of(
    state: State, choice: Pilot, job: Job, *, last_step: int, limit: int | None = None, **more: Any
) -> UpdateShares:
    """How a budget is divided among started blocks.

    Arguments:
        state: Before the first of them.
        choice: What the pilot fits chose and measured.
        job: The fit.
        last_step: Number of the last of them.
        limit: Updates of a block without a budget; None for those of a start by regression.
        more: What else `UpdateShares` takes.
    """
    rules, n_rows = job.recipe, len(state.train)
    limit = rules.updates.regression_updates(n_rows) if limit is None else limit
    per_epoch = n_rows / rules.updates.batch(n_rows)
    return UpdateShares(job.journal, rules.budget, limit, last_step, choice.seconds, per_epoch, **more)


def started_solver(choice: Pilot, shares: UpdateShares, job: Job) -> StepSolver:
    """What trains each step: a start with the pilot's variant and, where asked for, a finish."""
    rules = job.recipe.updates

    def solver_of(step: Step) -> StepSolver:
        n_rows = len(step.train)
        updates = shares.updates(step.number, step.round, last=math.isinf(step.gamma))
        finish = rules.finish(n_rows, updates) if shares.are_finished(updates) else None
        start = rules.regression(n_rows, updates)
        return StartedSolver(job.family, start, finish, choice.features, job.settings.divergence)

    return DispatchedSolver(solver_of)

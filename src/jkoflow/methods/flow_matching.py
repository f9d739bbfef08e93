r"""`objective="flow_matching"`: one free block, regressed on straight paths from rows to noise.

    x_t = (1 - t) x + t z,    min_v  E |v(x_t, t) - (z - x)|^2,      x ~ p_0 and z ~ N(0, I) independent

There is no proximal step and no choice of step sizes: the block's flow takes p_0 to N(0, I) at once. It is
scored, inverted and sampled as the discrete map that it is, like every block. Source: Lipman et al. (2023),
arXiv 2210.02747; Liu, Gong & Liu (2023), arXiv 2209.03003, for straight paths.
"""

from __future__ import annotations

import math
from dataclasses import replace

from jkoflow.errors import InputError
from jkoflow.fold import proximal_fold
from jkoflow.methods.base import Job
from jkoflow.methods.pilot import rehearsed_seconds
from jkoflow.steps import State
from jkoflow.steps.regression import Path
from jkoflow.steps.solvers import StartedSolver, can_be_started

__all__ = ["flow_matching"]


def flow_matching(state: State, job: Job) -> State:
    """One block on straight paths; under a budget with as many updates as it has time for."""
    if not can_be_started(job.family, state.functional.law):
        raise InputError(
            "objective: 'flow_matching' needs blocks with a velocity, which end in the standard normal law;"
            f" got block {job.settings.block!r} and law {job.settings.law!r}"
        )
    rules, n_rows = job.recipe, len(state.train)
    updates = rules.updates.regression_updates(n_rows)
    if job.journal.limited:
        updates = int(
            job.journal.decide("updates", lambda: _affordable(state, job), kinds=(int,), block=1, round=0)
        )
    start = rules.updates.regression(n_rows, updates)
    straight = Path(lambda gamma: 1.0, lambda x, z, t, scale: ((1 - t) * x + t * z, z - x))
    solver = StartedSolver(job.family, start, None, job.family.variants[-1], path=straight)
    after = proximal_fold(state, (math.inf,), job.fold(solver))
    return replace(
        after, ended="flow matching trains one block, and two thirds of a budget are held back for its checks"
    )


def _affordable(state: State, job: Job) -> int:
    """Updates in a third of what a budget leaves: a long step takes many solver steps to settle and check."""
    rules, seconds = job.recipe.budget, rehearsed_seconds(state, job)
    return job.journal.how_many(seconds, rules.updates, share=rules.flow_matching_share)

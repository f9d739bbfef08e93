r"""`objective="auto"`: the default fit, which asks validation rows what a table needs.

    default             lead -> pilot fits -> rounds of blocks, each with a closing -> Gaussian if no worse
    gamma= given        pilot fits -> Gaussian step, where it helps -> blocks -> Gaussian if no worse
    closing=None        pilot fits -> blocks

Except with `closing=None`, a Gaussian becomes the model unless the flow is better by two standard errors.
Where step sizes are given, or `closing=None`, each block is started by regression, finished on the objective,
and kept for its own gain. With a budget each block gets the updates that the remaining CPU-seconds allow;
without one, those of the recipe, and no clock is read. Source: docs/method.md.
"""

from __future__ import annotations

import math
from dataclasses import replace

from jkoflow.errors import InputError
from jkoflow.methods.base import Job, schedule_of
from jkoflow.methods.given_steps import fold_rounds
from jkoflow.methods.jko import fold_on_objective
from jkoflow.methods.lead import with_lead
from jkoflow.methods.pilot import Pilot, timed_pilot
from jkoflow.methods.rounds import closed_rounds
from jkoflow.methods.started import affordable_blocks, shares_of, started_solver
from jkoflow.steps import State, improves
from jkoflow.steps.gaussian import (
    Whitening,
    best_whitening,
    take_closed_form,
    take_gaussian,
    whitening_of_all_rows,
)
from jkoflow.steps.solvers import can_be_started

__all__ = ["automatic"]


def automatic(state: State, job: Job) -> State:
    """Pilot fits, a closed-form first step where it helps, then blocks; a Gaussian, where that is as good."""
    if not state.functional.law.is_standard:
        raise InputError(
            f"objective: 'auto' needs the standard normal law at the end, got {job.settings.law!r}; use 'jko'"
        )
    if not can_be_started(job.family, state.functional.law):
        return fold_on_objective(state, job, keep=improves(job.recipe.keep.standard_errors))
    rounds = job.settings.gamma == "auto" and job.settings.closing == "auto"
    alone = job.settings.closing != "auto"
    led = with_lead(state, job) if rounds else state
    if led.ended:
        return _unless_gaussian(led, state, _gaussian(state, job), job)
    chosen = job.journal.decide(
        "pilot", lambda: timed_pilot(led, job, gaussian_first=not rounds and not alone), kinds=(dict,)
    )
    choice = Pilot.from_record(chosen, job.family.variants)
    if alone:
        return _blocks_alone(state, choice, job)
    start, gaussian = led, _gaussian(state, job)
    if choice.affine_first:
        start = job.journal.step(
            state.number + 1,
            -1,
            solve=lambda: gaussian.solution,
            take=lambda solution: take_closed_form(state, solution, round_number=-1),
        )
    if job.settings.max_blocks <= len(start.flow):
        return start
    after = closed_rounds(start, choice, job) if rounds else _blocks_alone(start, choice, job)
    return _unless_gaussian(after, state, gaussian, job)


def _gaussian(state: State, job: Job) -> Whitening:
    return best_whitening(state, job.runtime, least_variance=job.recipe.keep.least_variance)


def _unless_gaussian(after: State, state: State, gaussian: Whitening, job: Job) -> State:
    """The state after a flow that began at `state`, or after a Gaussian alone where that is as good."""
    if after.beats(gaussian.after, standard_errors=job.recipe.keep.flow_standard_errors):
        return after
    again, background = replace(state, number=after.number), job.recipe.closing.background
    alone_is_as_good = job.journal.step(
        after.number + 1,
        -1,
        solve=lambda: whitening_of_all_rows(
            state,
            job.runtime,
            gaussian.covariance,
            least_variance=job.recipe.keep.least_variance,
            background=background,
        ),
        take=lambda solution: take_gaussian(again, solution, before=gaussian),
    )
    return replace(alone_is_as_good, ended="no flow is better than a Gaussian by more than chance")


def _blocks_alone(state: State, choice: Pilot, job: Job) -> State:
    """Blocks that start on the path of their step, kept where they lower the validation NLL."""
    rules = job.recipe
    most, enough = job.settings.max_blocks - len(state.flow), rules.budget.enough_alone
    room = affordable_blocks(most, state, choice, job, enough=enough)
    schedule = schedule_of(state, job, room=room)
    shares = shares_of(
        state,
        choice,
        job,
        last_step=state.number + schedule.rounds * len(schedule.gammas),
        first_share=rules.budget.first_share_alone,
        finish_cost=1 + rules.budget.finish_cost * rules.updates.finish_share,
        last_checks=rules.budget.last_checks if math.isinf(schedule.gammas[-1]) else 0,
    )
    keep = improves(rules.keep.standard_errors)
    return fold_rounds(state, schedule, job, started_solver(choice, shares, job), keep=keep, shares=shares)

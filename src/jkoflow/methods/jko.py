r"""`objective="jko"`: every block on the proximal objective alone, from the identity, as in the paper.

    for n = 1, ..., N:  T_n = argmin_T  G(T_# p_{n-1}) + E|x - T(x)|^2 / (2 gamma_n)

Step sizes are those of the settings; an adaptive schedule goes through them several times, each time with
step sizes that bring the distances moved closer to their mean. Where step sizes follow from the data, pilot
fits choose how fine the features of the networks are. Under a budget each block gets the updates that the
remaining CPU-seconds allow, and there are as many blocks as it has time to train. Source: Cheng, Lu, Tan &
Xie (2024), arXiv 2310.17582, eq. (25); Xu, Cheng & Xie (2023), arXiv 2212.14424, for the adaptive schedule.
"""

from __future__ import annotations

import math
from dataclasses import replace

from jkoflow.journal import UpdateShares
from jkoflow.methods.base import Job, schedule_of
from jkoflow.methods.given_steps import fold_rounds
from jkoflow.methods.pilot import Pilot, rehearsed_seconds, timed_pilot
from jkoflow.methods.started import affordable_blocks, shares_of
from jkoflow.schedule import Schedule
from jkoflow.steps import Keep, State, Step, StepSolver
from jkoflow.steps.solvers import ClosedFormSolver, DispatchedSolver, ProximalSolver, can_be_started

__all__ = ["fold_on_objective", "jko"]


def jko(state: State, job: Job) -> State:
    """The fold with blocks that descend on the objective; every block is kept."""
    return fold_on_objective(state, job, keep=None)


def fold_on_objective(state: State, job: Job, *, keep: Keep | None) -> State:
    """The fold with blocks that have a closed form, or else descend on the objective from the identity."""
    if job.family.has_closed_form(state.functional.law):
        schedule = schedule_of(state, job, room=job.settings.max_blocks)
        return fold_rounds(state, schedule, job, ClosedFormSolver(job.family), keep=keep)
    variant = _variant(state, job)
    pace = _paced(state, job, variant)
    schedule, shares = pace if pace else (schedule_of(state, job, room=job.settings.max_blocks), None)
    return fold_rounds(state, schedule, job, _solver(job, variant, shares), keep=keep, shares=shares)


def _variant(state: State, job: Job) -> str | None:
    """How fine the features are, by pilot fits where step sizes follow from the data; else None."""
    if job.settings.gamma != "auto" or not can_be_started(job.family, state.functional.law):
        return None
    chosen = job.journal.decide("pilot", lambda: timed_pilot(state, job, gaussian_first=False), kinds=(dict,))
    return Pilot.from_record(chosen, job.family.variants).features


def _paced(state: State, job: Job, variant: str | None) -> tuple[Schedule, UpdateShares] | None:
    """Under a budget the step sizes and how the time is divided among them; None without one."""
    if not job.journal.limited:
        return None
    limit = job.recipe.updates.objective_updates(len(state.train))

    def rehearsed() -> float:
        return rehearsed_seconds(state, job, lambda updates: _descending(job, variant, updates))

    seconds = float(job.journal.decide("seconds of an update", rehearsed, kinds=(float, int)))
    choice = Pilot(affine_first=False, features=variant or "", seconds=seconds)
    room = job.settings.max_blocks
    if job.settings.gamma == "auto":
        room = affordable_blocks(
            room, state, choice, job, enough=min(limit, job.recipe.budget.enough_on_objective)
        )
    schedule = schedule_of(state, job, room=room)
    checks = job.recipe.budget.last_checks if schedule.free_last else 0
    last = state.number + schedule.rounds * len(schedule.gammas)
    return schedule, shares_of(
        state,
        choice,
        job,
        last_step=last,
        limit=limit,
        first_share=job.recipe.budget.first_share_alone,
        last_checks=checks,
    )


def _solver(job: Job, variant: str | None, shares: UpdateShares | None) -> StepSolver:
    """What finds each block: a descent on the objective, as long as the shares say."""

    def solver_of(step: Step) -> StepSolver:
        limit = job.recipe.updates.objective_updates(len(step.train))
        updates = (
            limit if shares is None else shares.updates(step.number, step.round, last=math.isinf(step.gamma))
        )
        return _descending(job, variant, updates)

    return DispatchedSolver(solver_of)


def _descending(job: Job, variant: str | None, updates: int) -> StepSolver:
    """A descent on the objective from the identity in so many updates."""

    def solver_of(step: Step) -> StepSolver:
        rules = job.recipe.updates
        descent = replace(rules.objective(len(step.train)), updates=updates)
        if job.journal.limited:  # judged on all validation rows, which takes as long as several updates
            often = min(
                descent.checkpoints, max(rules.finish_checkpoints, updates // rules.updates_per_judging)
            )
            descent = replace(descent, checkpoints=often)
        steps = rules.solver_steps_of(step.gamma) if variant else rules.objective_solver_steps
        return ProximalSolver(job.family, descent, job.settings.divergence, steps, variant)

    return DispatchedSolver(solver_of)

r"""`objective="jko"`: every block on the proximal objective alone, from the identity, as in the paper.

    for n = 1, ..., N:  T_n = argmin_T  G(T_# p_{n-1}) + E|x - T(x)|^2 / (2 gamma_n)

Step sizes are those of the settings; an adaptive schedule goes through them several times, each time with
step sizes that bring the distances moved closer to their mean. Source: Cheng, Lu, Tan & Xie (2024), arXiv
2310.17582, eq. (25); Xu, Cheng & Xie (2023), arXiv 2212.14424, for the adaptive schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from jkoflow.fold import proximal_fold
from jkoflow.methods.base import Job, schedule_of
from jkoflow.schedule import Schedule
from jkoflow.steps import Keep, State, StepSolver
from jkoflow.steps.solvers import ClosedFormSolver, ProximalSolver

__all__ = ["fold_rounds", "jko", "objective_solver"]


def jko(state: State, job: Job) -> State:
    """The fold with blocks that descend on the objective; every block is kept."""
    schedule = schedule_of(state, job, room=job.settings.max_blocks)
    return fold_rounds(state, schedule, job, objective_solver(state, job), keep=None)


def objective_solver(state: State, job: Job) -> StepSolver:
    """What finds a block on the objective: its closed form where the family has one, else a descent."""
    rules = job.recipe.updates
    if job.family.has_closed_form(state.functional.law):
        return ClosedFormSolver(job.family)
    descent, steps = rules.objective(len(state.train)), rules.objective_solver_steps
    return ProximalSolver(job.family, descent, job.settings.divergence, steps)


def fold_rounds(
    state: State, schedule: Schedule, job: Job, solver: StepSolver, *, keep: Keep | None
) -> State:
    """The fold, once for each round of the schedule; a later round starts again from p_0.

    A free step that is asked for is made after the finite ones, wherever the stop rule ended them.
    """
    after, rounds = state, schedule.rounds
    for number in range(rounds):
        start = replace(state, number=after.number)
        planned = start.number + (rounds - number) * len(schedule.gammas)
        fold = replace(job.fold(solver, round_number=number), keep=keep, more=_planned(planned))
        stop = _stop_rule(schedule)
        after = proximal_fold(start, schedule.before_free, replace(fold, ended=stop))
        why = _why_ended(after, schedule)
        after = replace(proximal_fold(after, schedule.free, fold), ended=why)
        if number + 1 < rounds:
            schedule = schedule.reparametrised(after.moved)
    return after


def _stop_rule(schedule: Schedule) -> Callable[[State], bool]:
    """Whether the last step that was kept shows too small a gradient for another."""
    ratio = schedule.stop_ratio
    return lambda state: ratio is not None and state.gradient_ratio < ratio


def _why_ended(state: State, schedule: Schedule) -> str:
    """Why the finite steps ended."""
    if not _stop_rule(schedule)(state):
        return f"its schedule of {len(schedule.gammas)} steps is at its end"
    return (
        f"the stop rule: step {state.number} leaves a squared gradient of {state.gradient_ratio:.2g} of "
        f"E|T(x)|^2, below stop_ratio = {schedule.stop_ratio:g}"
    )


def _planned(number: int) -> Callable[[State], dict[str, int]]:
    """What the record of each step says of the number of the last one."""
    return lambda state: {"planned": number}

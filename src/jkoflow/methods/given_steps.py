r"""The fold over a schedule of step sizes: rounds, the stop rule, the free last step, and what a budget ends.

    for each round:  gamma_1, ..., gamma_N while the gradient that a step leaves is large;  then the free step

Source: Xu, Cheng & Xie (2023), arXiv 2212.14424, for rounds and stop rule; docs/method.md, "Step sizes".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from jkoflow.fold import proximal_fold
from jkoflow.journal import UpdateShares
from jkoflow.methods.base import Job
from jkoflow.schedule import Schedule
from jkoflow.steps import Keep, State, StepSolver

__all__ = ["fold_rounds"]


def fold_rounds(
    state: State,
    schedule: Schedule,
    job: Job,
    solver: StepSolver,
    *,
    keep: Keep | None,
    shares: UpdateShares | None = None,
) -> State:
    """The fold, once for each round of the schedule; a later round starts again from p_0.

    A free step that is asked for is made after the finite ones, whatever ended them.

    Arguments:
        state: Before the first step.
        schedule: Its step sizes.
        job: The fit.
        solver: What finds each block.
        keep: See `Fold`.
        shares: How a budget is divided among the steps; None where none of them takes time.
    """
    after, rounds = state, schedule.rounds
    for number in range(rounds):
        if number and not _has_time(after, number, len(schedule.gammas), shares):
            return replace(after, ended="the budget has no time for another round")
        start = replace(state, number=after.number)
        planned = start.number + (rounds - number) * len(schedule.gammas)
        fold = replace(job.fold(solver, round_number=number), keep=keep, more=_planned(planned))
        ending = _Ending(schedule, start.number + len(schedule.before_free), number, shares)
        # without a block the flow is N(0, I): the first one is made, however short the time
        gammas = () if len(after.flow) and ending.is_late(start) else schedule.before_free
        after = proximal_fold(start, gammas, replace(fold, ended=ending.is_here))
        why = ending.why(after)
        after = replace(proximal_fold(after, schedule.free, fold), ended=why)
        if number + 1 < rounds:
            schedule = schedule.reparametrised(after.moved)
    return after


class _Ending:
    """When the finite steps of a round end, and why.

    Arguments:
        schedule: Its step sizes and its stop rule.
        last: Number of the last of the finite steps.
        number: Number of the round.
        shares: See `fold_rounds`.
    """

    def __init__(self, schedule: Schedule, last: int, number: int, shares: UpdateShares | None) -> None:
        self._schedule, self._last, self._number, self._shares = schedule, last, number, shares

    def is_here(self, state: State) -> bool:
        """Whether no finite step follows this state."""
        return self._stops(state) or self.is_late(state)

    def is_late(self, state: State) -> bool:
        """Whether a budget has no time for the next finite step, and the free one after it."""
        steps = 1 + 2 * len(self._schedule.free)  # the checks of a free block take about twice as long
        return state.number < self._last and not _has_time(state, self._number, steps, self._shares)

    def why(self, state: State) -> str:
        """Why the finite steps ended with this state."""
        ratio = self._schedule.stop_ratio
        if self._stops(state):
            return (
                f"the stop rule: step {state.number} leaves a squared gradient of {state.gradient_ratio:.2g}"
                f" of E|T(x)|^2, below stop_ratio = {ratio:g}"
            )
        if self.is_late(state):
            return "the budget has no time for another block"
        return f"its schedule of {len(self._schedule.gammas)} steps is at its end"

    def _stops(self, state: State) -> bool:
        ratio = self._schedule.stop_ratio
        return ratio is not None and state.gradient_ratio < ratio


def _has_time(state: State, number: int, steps: int, shares: UpdateShares | None) -> bool:
    return shares is None or shares.has_time(state.number + 1, number, steps=steps)


def _planned(number: int) -> Callable[[State], dict[str, int]]:
    """What the record of each step says of the number of the last one."""
    return lambda state: {"planned": number}

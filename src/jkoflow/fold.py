r"""The fold itself: one proximal step after the other over the particles.

    p_0 -> p_1 = (T_1)_# p_0 -> ... -> p_N = (T_N)_# p_{N-1},    flow = T_N o ... o T_1

Each step sees only pushed particles; nothing is back-propagated through earlier blocks, and neither
particles nor blocks of earlier steps stay in the working memory of the next. Knows no file, no clock and no
policy: what is done is told to the journal.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, section 3.1, eq. (19)-(25).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jkoflow.journal import Journal, Solution, Taken
from jkoflow.recipe import Recipe
from jkoflow.runtime import Runtime
from jkoflow.steps.scheme import Part, Scheme, backward
from jkoflow.steps.state import Keep, State, take
from jkoflow.steps.step import Step, StepSolver

__all__ = ["Fold", "proximal_fold"]


@dataclass(frozen=True)
class Fold:
    """What is the same in every step of a fold.

    Arguments:
        solver: What finds the block of a step.
        runtime: Device, dtype, seed.
        journal: Where steps are recorded and replayed.
        recipe: The tuned numbers.
        keep: Asked of each new block with the states before and after it; None to keep all.
        scheme: How a step is split.
        round: Number of the round, from 0; a round is one pass over the step sizes.
        more: Gets the state after a step; returns further entries of the step's line in `steps.jsonl`.
        ended: Gets the state after each step; returns whether the fold ends there.
    """

    solver: StepSolver
    runtime: Runtime
    journal: Journal
    recipe: Recipe = field(default_factory=Recipe)
    keep: Keep | None = None
    scheme: Scheme = backward
    round: int = 0
    more: Callable[[State], Mapping[str, Any]] = lambda state: {}
    ended: Callable[[State], bool] = lambda state: False

    def step(self, state: State, part: Part) -> Step:
        """The next step from where the particles are."""
        number = state.number + 1
        stop = self.journal.stop_at(number, self.round)
        return Step(
            number,
            part.gamma,
            state.train,
            state.validation,
            part.functional,
            self.runtime,
            stop,
            self.round,
            self.recipe,
        )


def proximal_fold(state: State, gammas: Iterable[float], fold: Fold) -> State:
    """The state after a step of each size, or after the one at which the fold ends.

    Arguments:
        state: Where to start; see `initial_state`.
        gammas: Step sizes gamma_1, ..., gamma_N; infinite for a free step.
        fold: What is the same in every step.
    """
    for gamma in gammas:
        for part in fold.scheme(gamma, state.functional):
            # eq. (25): T_n = argmin G(T_# p_{n-1}) + E|x - T(x)|^2 / (2 gamma_n)
            # eq. (22): p_n = (T_n)_# p_{n-1}
            state = fold.journal.step(
                state.number + 1,
                fold.round,
                solve=partial(_solve, fold, state, part),
                take=partial(_take, fold, state, part.gamma),
            )
            if fold.ended(state):
                return state
    return state


def _solve(fold: Fold, state: State, part: Part) -> Solution:
    return (part.solver or fold.solver)(fold.step(state, part))


def _take(fold: Fold, state: State, gamma: float, solution: Solution) -> tuple[State, Taken]:
    return take(state, solution, round_number=fold.round, gamma=gamma, keep=fold.keep, more=fold.more)

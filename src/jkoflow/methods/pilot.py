r"""Pilot fits: short fits on part of the rows, by which a fit chooses before it trains a block.

    chosen = argmin of the validation NLL of a fit with few updates a block, over the choices

The choices are the family's variant (for neural-ODE blocks how fine their Fourier features are) and, where
step sizes are given, whether the closed-form Gaussian step comes first; where rounds end with a closing, a
Gaussian step before them gains nothing. Under a budget the pilot fits have a share of it, and the CPU-seconds
of an update are measured before them. Source: ours; docs/performance.md.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jkoflow.errors import RunFolderError
from jkoflow.fold import proximal_fold
from jkoflow.journal import Journal
from jkoflow.methods.base import Job, schedule_of
from jkoflow.steps import State, Step, StepSolver, improves
from jkoflow.steps.gaussian import best_whitening
from jkoflow.steps.solvers import RegressionSolver
from jkoflow.storage.entries import brief, checked_real, checked_text, require_names

__all__ = ["Pilot", "choose_by_pilot", "rehearsed_seconds", "timed_pilot"]


@dataclass(frozen=True)
class Pilot:
    """What the pilot fits chose.

    Arguments:
        affine_first: Whether the first step is the closed-form Gaussian one.
        features: The family's variant; see `Family.variants`.
        seconds: CPU-seconds of one update of a block's start, as measured; 0 without a budget.
    """

    affine_first: bool
    features: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as the decision that is on record."""
        return {"affine_first": self.affine_first, "features": self.features, "seconds": self.seconds}

    @classmethod
    def from_record(cls, record: Mapping[str, Any], variants: Sequence[str]) -> Pilot:
        """The choice that is on record.

        Arguments:
            record: What `to_dict` returned, as JSON gives it back.
            variants: The family's.

        Raises:
            RunFolderError: It is another.
        """
        try:
            require_names(record, {"affine_first", "features", "seconds"})
            features, seconds = checked_text(record, "features"), checked_real(record, "seconds")
            if features not in variants or not isinstance(record["affine_first"], bool):
                raise ValueError(f"expected features among {', '.join(variants)}, got {brief(record)}")
        except ValueError as failure:
            raise RunFolderError(
                f"the record of decisions, steps.jsonl: pilot: {failure}; restore it from a copy, or start "
                "again with --overwrite"
            ) from None
        return cls(record["affine_first"], features, seconds)


def timed_pilot(state: State, job: Job, *, gaussian_first: bool) -> dict[str, Any]:
    """The choice as it is recorded; under a budget within its share, and with what an update costs.

    Arguments:
        state: Before the first step.
        job: The fit.
        gaussian_first: Whether the Gaussian step is a choice.
    """
    rules = job.recipe.pilot
    if not job.journal.limited:
        most = rules.updates[1]
        return choose_by_pilot(state, job, updates=most, gaussian_first=gaussian_first).to_dict()
    seconds = rehearsed_seconds(state, job)
    out_of_time = job.journal.deadline(rules.patience * rules.budget_share)
    n_blocks = rules.blocks * (len(job.family.variants) + gaussian_first)
    share = rules.updates_share * rules.budget_share / n_blocks
    updates = job.journal.how_many(seconds, rules.updates, share=share)
    choice = choose_by_pilot(
        state, job, updates=updates, gaussian_first=gaussian_first, out_of_time=out_of_time
    )
    return replace(choice, seconds=seconds).to_dict()


def rehearsed_seconds(state: State, job: Job, solver_of: Callable[[int], StepSolver] | None = None) -> float:
    """CPU-seconds of one update, by short descents of a block that is thrown away.

    Two lengths, whose difference is updates alone; the first of all also loads what is needed only once. The
    median of a few such pairs, since the number of blocks depends on it and a machine's other work does not.

    Arguments:
        state: Before the first step.
        job: The fit.
        solver_of: Finds a block in so many updates; None for the start of a block by regression.
    """
    rules, n_rows = job.recipe.pilot, len(state.train)
    gamma = math.inf if solver_of is None else job.recipe.steps.largest
    step = Step(0, gamma, state.train, state.validation, state.functional, job.runtime, recipe=job.recipe)

    def regression(updates: int) -> StepSolver:
        descent = job.recipe.updates.regression(n_rows, updates, checkpoints=1)
        return RegressionSolver(job.family, descent, job.family.variants[0])

    def start(updates: int) -> float:
        solver = (solver_of or regression)(updates)
        return job.journal.timed(lambda: solver(step))[1]

    few, many = rules.rehearsals if solver_of is None else rules.objective_rehearsals
    start(few)
    pairs = [(start(few), start(many)) for _ in range(rules.rehearsed_pairs)]
    differences = [max(long - short, rules.least_difference * long) for short, long in pairs]
    return statistics.median(differences) / (many - few)


def choose_by_pilot(
    state: State,
    job: Job,
    *,
    updates: int,
    gaussian_first: bool,
    out_of_time: Callable[[], bool] = lambda: False,
) -> Pilot:
    """Short fits on part of the rows: with and without the Gaussian step, then with other variants.

    Each block of a fit has so many `updates` and one solver step, and nothing of a fit is kept. A fit that is
    not finished when the time is up counts for nothing; without any, the Gaussian step (where there is a
    choice of it) and the first variant are taken.
    """
    part, variants = _part_of(state, job), job.family.variants
    tried: dict[tuple[bool, str], float] = {}

    def nll(*, affine_first: bool, variant: str) -> float:
        if (affine_first, variant) not in tried:
            start = part
            if affine_first:
                least = job.recipe.keep.least_variance
                start = best_whitening(part, job.runtime, least_variance=least).after
                start = replace(start, number=part.number + 1, moved=())
            tried[affine_first, variant] = _pilot_nll(
                start, job, variant, updates, len(state.train), out_of_time
            )
        return tried[affine_first, variant]

    first = variants[0]
    affine_first = gaussian_first and (
        nll(affine_first=True, variant=first) <= nll(affine_first=False, variant=first)
    )
    best = min(variants, key=lambda variant: nll(affine_first=affine_first, variant=variant))
    return Pilot(affine_first, best, 0.0)


def _part_of(state: State, job: Job) -> State:
    """The state with the rows alone that pilot fits look at."""
    rules = job.recipe.pilot
    judged = job.recipe.keep.judged(state.validation).rows(slice(0, rules.judged_rows))
    return state.seen_on(judged, state.train.rows(slice(0, rules.rows)))


def _pilot_nll(
    state: State, job: Job, variant: str, updates: int, n_rows: int, out_of_time: Callable[[], bool]
) -> float:
    """Validation NLL of a short fit of so many updates a block; infinite if the time was up before its end.

    The networks are those of a table of `n_rows`, of which the fit sees a part.
    """
    room = min(job.settings.max_blocks, job.recipe.pilot.blocks)
    gammas = schedule_of(state, job, room=room, gamma="auto").gammas
    descent = job.recipe.updates.regression(len(state.train), updates, checkpoints=1)
    solver = RegressionSolver(job.family, descent, variant, n_rows)
    late = [out_of_time()]

    def ended(after: State) -> bool:
        del after
        late.append(out_of_time())
        return late[-1]

    fold = replace(
        job.fold(solver), journal=Journal(), keep=improves(job.recipe.keep.standard_errors), ended=ended
    )
    after = state if late[0] else proximal_fold(state, gammas, fold)
    return math.inf if any(late) else after.nll

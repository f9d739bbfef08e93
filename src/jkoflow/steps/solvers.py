r"""Ways to find the block of a step: a start by regression, a finish on the objective, a closed form.

    ProximalSolver   the identity, then descent on the objective, as in the paper
    StartedSolver    regression on the path of the step, then, where asked, a short descent on the objective
    ClosedFormSolver the minimiser over the family, where it is known

Each ends with the solver steps that the block's map needs. Source: Cheng, Lu, Tan & Xie (2024), arXiv
2310.17582, eq. (25); Xu, Cheng & Xie (2024), arXiv 2410.02548, for the start.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jkoflow.blocks import Block
from jkoflow.blocks.family import Family, Start
from jkoflow.blocks.judge import rows_not_inverted, value_after
from jkoflow.first_order import effective_gamma
from jkoflow.journal import Solution
from jkoflow.laws import Law
from jkoflow.recipe import DescentSettings
from jkoflow.steps.descent import Descent
from jkoflow.steps.proximal import descend_on_objective
from jkoflow.steps.regression import OU_PATH, Path, regress
from jkoflow.steps.step import Step, StepSolver

__all__ = [
    "ClosedFormSolver",
    "DispatchedSolver",
    "ProximalSolver",
    "RegressionSolver",
    "StartedSolver",
    "can_be_started",
]


def can_be_started(family: Family, law: Law) -> bool:
    """Whether regression finds a start: a block is the flow of a field, and the law at the end is N(0, I)."""
    return family.follows_paths and law.is_standard


@dataclass(frozen=True)
class DispatchedSolver:
    """A solver that is looked up for each step."""

    solver_of: Callable[[Step], StepSolver]

    def __call__(self, step: Step) -> Solution:
        """Find the block of `step` by its own solver."""
        return self.solver_of(step)(step)


@dataclass(frozen=True)
class ClosedFormSolver:
    """Takes the minimiser of the proximal objective over a family in which it has a closed form."""

    family: Family

    def __call__(self, step: Step) -> Solution:
        """The minimiser; the family must have one."""
        block = self.family.in_closed_form(step.train, step.gamma, step.functional.law)
        return Solution.found(block, "closed_form")


@dataclass(frozen=True)
class ProximalSolver:
    """Minimises the proximal objective from the identity.

    Arguments:
        family: The kind of block.
        descent: Updates, batch and rate.
        divergence: How training sees the log-determinant; see `blocks.log_det.DIVERGENCES`.
        steps: Solver steps of the block, where there is a solver.
        variant: See `Family.variants`; None for the family's plain block.
    """

    family: Family
    descent: DescentSettings
    divergence: str = "auto"
    steps: int = 2
    variant: str | None = None

    def __call__(self, step: Step) -> Solution:
        """Find the block of `step` on the proximal objective alone."""
        block = _new(self.family, step, Start(self.variant, steps=self.steps))
        done = descend_on_objective(block, step, self.descent, self.divergence)
        block = block.mended(step.judge).checked(step.judge)
        return Solution.found(block, "proximal", updates={"proximal": done.updates}, retries=done.retries)


@dataclass(frozen=True)
class RegressionSolver:
    """The start of a block alone, at one solver step and unchecked: for short fits that are thrown away.

    Arguments:
        family: The kind of block.
        start: Updates, batch and rate of the regression.
        variant: See `Family.variants`.
        n_rows: Training rows of the fit that the block is sized for; None for those of the step.
        path: The path that the block's velocity is fitted to.
    """

    family: Family
    start: DescentSettings
    variant: str
    n_rows: int | None = None
    path: Path = OU_PATH

    def __call__(self, step: Step) -> Solution:
        """The block of `step` on its path, best on validation rows."""
        start = Start(self.variant, self.n_rows)
        block, done = _regressed(self.family, step, start, self.start, self.path)
        return Solution.found(block, "warm_start", **_told(done))


@dataclass(frozen=True)
class StartedSolver:
    """Starts a block on the path of its step, then finishes it on the proximal objective where asked.

    Arguments:
        family: The kind of block.
        start: Updates, batch and rate of the regression.
        finish: Updates, batch and rate of the descent on the proximal objective for a block of one solver
            step; a block of s steps gets an s-th of the updates. None for no finish.
        variant: See `Family.variants`.
        divergence: How the finish sees the log-determinant.
        path: The path that the start is fitted to.
    """

    family: Family
    start: DescentSettings
    finish: DescentSettings | None
    variant: str
    divergence: str = "auto"
    path: Path = OU_PATH

    def __call__(self, step: Step) -> Solution:
        """Find the block of `step`; the finish is kept only where it lowers the validation value of G."""
        found = self._found(step)
        if found.block is None or self.path is not OU_PATH:
            return found
        # a path of the Ornstein-Uhlenbeck process is a proximal step of another size than names its end
        rows, law = step.judge.rows, step.functional.law
        return replace(
            found, block=found.block.as_step_of(effective_gamma(found.block, rows, law, step.gamma))
        )

    def _found(self, step: Step) -> Solution:
        """The block of `step`, by the size of its path."""
        start, judge = Start(self.variant), step.judge
        block, started = _regressed(self.family, step, start, self.start, self.path)
        if started.best_update == 0:  # nothing to learn at this scale: the block is still the identity
            return Solution.found(block.checked(judge), "warm_start", **_told(started))
        block = block.settled(judge)
        if self.finish is None:
            return Solution.found(block.checked(judge), "warm_start", **_told(started))
        return self._finished(block, started, step, self.finish)

    def _finished(self, block: Block, started: Descent, step: Step, finish: DescentSettings) -> Solution:
        """The block after the finish where validation rows want it, else as it was."""
        judge = step.judge
        before, missed = value_after(block, judge), rows_not_inverted(block, judge)
        candidate = copy.deepcopy(block)
        # an update costs as much as the block has solver steps: the finish of a fine map has fewer
        fewer = replace(finish, updates=max(1, finish.updates // block.solver_steps))
        done = descend_on_objective(candidate, step, fewer, self.divergence)
        after = value_after(candidate, judge)
        kept = after < before and rows_not_inverted(candidate, judge) <= missed
        return Solution.found(
            (candidate if kept else block).checked(judge),
            "proximal" if kept else "warm_start",
            updates={"warm_start": started.updates, "proximal": done.updates},
            retries=started.retries + done.retries,
            best_update=started.best_update,
            proximal_nll_gain_nats=before - after,
        )


def _regressed(
    family: Family, step: Step, start: Start, settings: DescentSettings, path: Path
) -> tuple[Block, Descent]:
    """A new block whose velocity is fitted to the path of its step, best on validation rows."""
    block = _new(family, step, start)
    assert block.velocity_field is not None
    return block, regress(block.velocity_field, step, settings, path)


def _told(done: Descent) -> dict[str, Any]:
    """What the record of a step tells of a path regression that nothing follows."""
    updates = {"warm_start": done.updates}
    return {"updates": updates, "retries": done.retries, "best_update": done.best_update}


def _new(family: Family, step: Step, start: Start) -> Block:
    return family.new(step.train, step.gamma, start, generator=step.stream("initial_weights"))

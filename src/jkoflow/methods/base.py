"""A method: which steps a fit takes, in what order, until when.

    method(state_0, job) = state_N

A method is a function of a state that reads from top to bottom. It takes steps through the journal, asks the
journal for decisions and for what a budget allows, and knows no file and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from jkoflow.blocks.family import Family
from jkoflow.config import Settings
from jkoflow.fold import Fold
from jkoflow.journal import Journal
from jkoflow.recipe import Recipe
from jkoflow.runtime import Runtime
from jkoflow.schedule import Schedule, resolve_schedule
from jkoflow.steps import State, StepSolver
from jkoflow.steps.scheme import Scheme, backward

__all__ = ["Job", "Method", "schedule_of"]


@dataclass(frozen=True)
class Job:
    """What a method is given beside the state that it starts from.

    Arguments:
        settings: The options of the fit.
        family: The kind of block.
        runtime: Device, dtype, seed.
        journal: Decisions, steps and budget.
        recipe: The tuned numbers.
        scheme: How a step is split.
    """

    settings: Settings
    family: Family
    runtime: Runtime
    journal: Journal
    recipe: Recipe = field(default_factory=Recipe)
    scheme: Scheme = backward

    def fold(self, solver: StepSolver, *, round_number: int = 0) -> Fold:
        """A fold with this job's parts."""
        return Fold(solver, self.runtime, self.journal, self.recipe, scheme=self.scheme, round=round_number)


class Method(Protocol):
    """A way to fit a flow."""

    def __call__(self, state: State, job: Job) -> State:
        """The state after the last step, from `initial_state`."""


def schedule_of(state: State, job: Job, *, room: int, gamma: object = None) -> Schedule:
    """The step sizes of at most `room` blocks from where the particles are.

    Arguments:
        state: Where the particles are.
        job: Its settings have the step sizes.
        room: Most blocks, a free one included.
        gamma: Step sizes instead of those of the settings.
    """
    return resolve_schedule(
        job.settings.gamma if gamma is None else gamma,
        max_blocks=room,
        particles=state.train,
        generator=job.runtime.stream("schedule"),
        rules=job.recipe.steps,
    )

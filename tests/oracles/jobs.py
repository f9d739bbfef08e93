"""Fits of particles without a table: a state to start from, a job, and the steps that a method takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from jkoflow.blocks import block_from_config, family_named
from jkoflow.config import Settings
from jkoflow.fold import Fold, proximal_fold
from jkoflow.functionals import KL
from jkoflow.journal import Journal, Taken
from jkoflow.laws import Law, StandardNormal
from jkoflow.methods import Job, method_named
from jkoflow.particles import Particles
from jkoflow.recipe import Recipe
from jkoflow.runtime import Runtime
from jkoflow.steps import State, initial_state

__all__ = ["Recorded", "job_of", "run_fold", "run_method", "same_flow", "start_state"]


@dataclass
class Recorded:
    """Everything that a fit tells, and where it stops telling.

    Arguments:
        decisions: The decisions so far.
        most: Steps after which the fit is interrupted; None for never.
    """

    decisions: list[dict[str, Any]] = field(default_factory=list)
    most: int | None = None
    steps: list[tuple[State, Taken]] = field(default_factory=list)
    replayed: list[bool] = field(default_factory=list)

    def observe(self, state: State, taken: Taken, *, replayed: bool) -> None:
        self.steps.append((state, taken))
        self.replayed.append(replayed)
        if len(self.steps) == self.most:
            raise KeyboardInterrupt

    def journal(self, *, steps: list[Taken] | None = None, **options: Any) -> Journal:
        """A journal that tells this."""
        given = {"decisions": list(self.decisions), "write": self.decisions.append, **options}
        return Journal(observe=self.observe, steps=steps or [], **given)

    @property
    def taken(self) -> list[Taken]:
        return [taken for _, taken in self.steps]

    @property
    def logs(self) -> list[dict[str, Any]]:
        return [dict(taken.log) for taken in self.taken]

    @property
    def last(self) -> State:
        return self.steps[-1][0]


def restored(taken: Taken) -> Taken:
    """The step as it comes back from storage: new objects with the same numbers."""
    if taken.block is None:
        return Taken(taken.number, taken.round, None, dict(taken.log))
    state = {name: tensor.clone() for name, tensor in taken.block.state_dict().items()}
    reals = next(numbers for numbers in state.values() if numbers.is_floating_point())
    block = block_from_config(taken.block.to_config()).to(reals.dtype)
    block.load_state_dict(state)
    return Taken(taken.number, taken.round, block, dict(taken.log))


def start_state(train: Particles, validation: Particles, law: Law | None = None) -> State:
    """Before the first step of KL(. | law), N(0, I) by default."""
    return initial_state(KL(law or StandardNormal(train.dim)), train, validation)


def job_of(settings: Settings, journal: Journal, recipe: Recipe, runtime: Runtime | None = None) -> Job:
    """A job as `fit_table` makes it."""
    family = family_named(settings.block, **recipe.of_blocks)
    return Job(settings, family, runtime or Runtime(0), journal, recipe)


def run_method(
    state: State, settings: Settings, recorded: Recorded, recipe: Recipe, **options: Any
) -> Recorded:
    """The method of the settings from `state` on, as far as it comes."""
    runtime, steps = options.pop("runtime", None), options.pop("steps", None)
    job = job_of(settings, recorded.journal(steps=steps, **options), recipe, runtime)
    try:
        method_named(settings.objective)(state, job)
    except KeyboardInterrupt:
        if recorded.most is None:
            raise
    return recorded


def run_fold(
    state: State, gammas: tuple[float, ...], solver: Any, *, steps: list[Taken] | None = None, **options: Any
) -> Recorded:
    """The fold over these step sizes."""
    recorded, runtime = Recorded(), options.pop("runtime", Runtime(0, dtype=torch.float64))
    proximal_fold(state, gammas, Fold(solver, runtime, recorded.journal(steps=steps), **options))
    return recorded


def same_flow(first: Recorded, second: Recorded) -> bool:
    """Whether both ended with the same tensors, bit for bit."""
    one, other = first.last.flow.state_dict(), second.last.flow.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)

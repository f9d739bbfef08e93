"""What one proximal step is given.

    p_{n-1}, gamma_n, G  ->  T_n = argmin_T  G(T_# p_{n-1}) + E|x - T(x)|^2 / (2 gamma_n)

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (20) and (25).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from jkoflow.blocks.judge import Judge
from jkoflow.functionals import Functional, ProximalObjective, Pushed
from jkoflow.journal import Solution
from jkoflow.particles import Particles
from jkoflow.recipe import Recipe
from jkoflow.runtime import Runtime

__all__ = ["Step", "StepSolver", "Stop"]

Stop = Callable[[str, int], bool]
"""Asked at checkpoints with the phase and the updates made; True ends the phase."""


@dataclass(frozen=True)
class Step:
    """What one step is given.

    Arguments:
        number: n, from 1; 0 for what is found outside of the fold.
        gamma: gamma_n; infinite for a free step.
        train: Samples of p_{n-1}.
        validation: Validation samples of p_{n-1}.
        functional: G.
        runtime: Device, dtype, seed.
        stop: See `Stop`.
        round: Number of the round, from 0: of the passage over the step sizes that the step is part of.
        recipe: The tuned numbers.
    """

    number: int
    gamma: float
    train: Particles
    validation: Particles
    functional: Functional
    runtime: Runtime
    stop: Stop = lambda phase, updates: False
    round: int = 0
    recipe: Recipe = field(default_factory=Recipe)

    def stream(self, name: str) -> torch.Generator:
        """The step's own source of randomness of that name."""
        return self.runtime.stream(name, self.round, self.number)

    @property
    def objective(self) -> ProximalObjective:
        """The proximal objective of this step."""
        return ProximalObjective(self.functional, self.gamma)

    @cached_property
    def judge(self) -> Judge:
        """What decides on solver steps: the validation rows that are looked at, and the value of G there."""
        law, recipe = self.functional.law, self.recipe

        def value(rows: Particles, image: Tensor, log_det: Tensor) -> Tensor:
            return self.functional.value(self.functional.init(rows), Pushed(rows, image, log_det))

        return Judge(
            held_out=self.validation,
            rows=recipe.keep.judged(self.validation),
            value=value,
            draws=lambda count: law.sample(count, self.stream("inverted rows")),
            check=recipe.inverse,
            refinement=recipe.refinement,
        )


class StepSolver(Protocol):
    """A way to find the block of a step."""

    def __call__(self, step: Step) -> Solution:
        """The block, trained, at the solver steps that its map needs; and what was done."""

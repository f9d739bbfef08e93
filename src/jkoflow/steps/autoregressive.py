r"""An autoregressive block for a free step: trained on -log p, then given what other densities say better.

    T = argmin_T  E[V(T(x))] - E[log|det dT(x)|]   over the maps of conditional mixtures (gamma = infinity)

Source: ours, docs/method.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from jkoflow.blocks import Block
from jkoflow.blocks.autoregressive import AutoregressiveFamily, LeafRules
from jkoflow.particles import Particles
from jkoflow.recipe import DescentSettings, Recipe
from jkoflow.steps.descent import Descent
from jkoflow.steps.proximal import descend_on_objective
from jkoflow.steps.step import Step

__all__ = ["AutoregressiveMaker"]


@dataclass(frozen=True)
class AutoregressiveMaker:
    """How autoregressive blocks are made.

    Arguments:
        recipe: The tuned numbers.
    """

    recipe: Recipe

    @property
    def family(self) -> AutoregressiveFamily:
        """Their sizes."""
        return AutoregressiveFamily(self.recipe.autoregressive, self.recipe.closing.background)

    def new(self, step: Step) -> Block:
        """A block in its closed-form start."""
        return self.family.new(step.train, step.gamma, generator=step.stream("initial_weights"))

    def train(self, block: Block, step: Step, settings: DescentSettings) -> Descent:
        """Descend on the objective in place."""
        return descend_on_objective(block, step, settings, "auto")

    def add_mixture(self, block: Block, closing: Block | None, step: Step) -> None:
        """Give a block the conditionals of a closing, in place, where validation rows like them."""
        rules = self.recipe.lead
        self.family.add_mixture(
            block, closing, self.judged(step), rules.leaves, most_products=rules.mixture_products
        )

    def grow(self, block: Block, step: Step, rules: LeafRules, columns: Sequence[int] | None = None) -> bool:
        """Give a block kernels, in place, where validation rows like them; whether any column has some."""
        generator = step.stream("leaves")
        count = rules.most_rows + max(rules.held_rows)
        rows = (
            step.train.rows(slice(0, count))
            if step.train.weight is None
            else step.train.draw(count, generator)
        )
        seed = int(torch.randint(2**31, (1,), generator=generator))
        return self.family.grow_leaves(block, rows, self.judged(step), rules, seed, columns)

    def judged(self, step: Step) -> Particles:
        """The validation rows that decisions look at."""
        return step.validation.rows(slice(0, self.recipe.keep.judged_densities))

r"""Trains an autoregressive block that leads to its end, and gives it what other densities say better.

    updates, trees <- what a budget leaves time for;    mixture, kernels <- where validation rows like them

Source: ours, docs/method.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jkoflow.blocks import Block
from jkoflow.journal import Journal, Solution
from jkoflow.steps import Step
from jkoflow.steps.autoregressive import AutoregressiveMaker

__all__ = ["LeadSolver"]


@dataclass(frozen=True)
class LeadSolver:
    """Trains the block of a trial to its end.

    Arguments:
        maker: How it is made.
        started: The block after its trial.
        closing: The first closing, whose conditionals it can get; None for no step.
        tried: Updates of the trial.
        updates: Updates after it.
        tree_seconds: CPU-seconds of one tree of every column; None for no trees.
        journal: It knows how many there is time for.
    """

    maker: AutoregressiveMaker
    started: Callable[[Step], Block]
    closing: Block | None
    tried: int
    updates: int
    tree_seconds: float | None
    journal: Journal

    def __call__(self, step: Step) -> Solution:
        block, rules = self.started(step), self.maker.recipe.lead
        settings = rules.training(self.updates, len(step.train), step.train.dim)
        share = 0.0 if self.tree_seconds is None else rules.leaf_share * (1 - rules.share_beside_leaves)
        with self.journal.holding_back(share):
            done = self.maker.train(block, step, settings)
        self.maker.add_mixture(block, self.closing, step)
        trees = self._trees(step)
        grown = trees > 0 and self.maker.grow(block, step, rules.with_trees(trees))
        return Solution.found(
            block,
            "proximal",
            updates={"proximal": self.tried + done.updates},
            retries=done.retries,
            best_update=done.best_update,
            trees=trees if grown else 0,
        )

    def _trees(self, step: Step) -> int:
        rules, seconds = self.maker.recipe.lead, self.tree_seconds
        if seconds is None:
            return 0
        if not self.journal.limited:
            return sum(rules.leaves.trees)

        def affordable() -> int:
            return self.journal.how_many(seconds, rules.trees, share=rules.leaf_share)

        where = {"block": step.number, "round": step.round}
        return int(self.journal.decide("trees", affordable, kinds=(int,), **where))

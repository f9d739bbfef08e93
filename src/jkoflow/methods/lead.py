r"""A lead: an autoregressive block as the first step, where it says more of the rows than the first closing.

    T_1 = argmin_T  E[V(T(x))] - E[log|det dT(x)|]   over the maps of conditional mixtures (gamma = infinity)

Columns with spikes, edges or very different widths, and many columns, are better told one after the other
than by a mixture or by steps that move all of them at once. Which it is, validation rows say: a short trial
is compared with the closing that would end a fit at once. Where rows like one say more of the next column
than the network learns, the block gets kernels at the leaves of trees, too; and the conditionals of the first
closing, where those do. Source: ours, docs/method.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from jkoflow.blocks import Block, family_named
from jkoflow.blocks.autoregressive import AutoregressiveBlock, LeafRules
from jkoflow.blocks.log_det import push_block_with_log_det
from jkoflow.blocks.mixture import MixtureBlock
from jkoflow.fold import proximal_fold
from jkoflow.journal import Journal, Pace, Solution
from jkoflow.laws import Law
from jkoflow.methods.base import Job
from jkoflow.methods.closing import ClosingSearch, quick_search
from jkoflow.particles import Particles
from jkoflow.recipe import LeadRules
from jkoflow.steps import State, Step, improves, is_significant
from jkoflow.steps.descent import Descent
from jkoflow.steps.proximal import descend_on_objective

__all__ = ["with_lead"]


def with_lead(state: State, job: Job) -> State:
    """The state after an autoregressive block, where a trial of it beats the first closing; else as it was.

    Arguments:
        state: Before the first step.
        job: The fit.

    Returns:
        The state, its first closing known where no block leads.
    """
    rules, n_rows = job.recipe.lead, len(state.train)
    if state.train.dim < rules.fewest_columns or rules.trial_updates == 0:
        return state
    quick, _ = quick_search(state, job, round_number=0)
    closing = ClosingSearch(state, quick, job.runtime, job.recipe).best()
    trial = _Trial(job, _usable(closing.block, rules.gaussian_products))
    decided = job.journal.decide("lead", lambda: trial.against(state, closing.block), kinds=(dict,))
    if not decided["leads"]:
        return replace(state, closing=closing)

    share = rules.share_beside_leaves if decided["leaves"] else rules.share

    def affordable() -> int:
        most = (rules.fewest_updates, rules.most(n_rows))
        checks = rules.training_checkpoints * decided["check_seconds"]
        return job.journal.how_many(decided["seconds"], most, share=share, beside=checks)

    updates = rules.updates(n_rows)
    if job.journal.limited:
        updates = int(
            job.journal.decide("updates", affordable, kinds=(int,), block=state.number + 1, round=0)
        )
    seconds = float(decided["tree_seconds"]) if decided["leaves"] else None
    solver = _LeadSolver(trial, int(decided["updates"]), updates, seconds, job.journal, rules)
    keep = improves(job.recipe.keep.standard_errors)
    return proximal_fold(state, (math.inf,), replace(job.fold(solver), keep=keep))


class _Trial:
    """A short training of the block; made once, by whoever asks first.

    Arguments:
        job: The fit.
        mixture: The first closing; None where it is none whose conditionals a block can have.
    """

    def __init__(self, job: Job, mixture: MixtureBlock | None) -> None:
        self._job, self._mixture = job, mixture
        self._family = family_named("autoregressive", **job.recipe.of_blocks)
        self._block: AutoregressiveBlock | None = None

    def against(self, state: State, closing: Block | None) -> dict[str, object]:
        """Whether the block beats a closing, the updates of its trial, and CPU-seconds of one of them.

        Arguments:
            state: Before the block.
            closing: The step that would end the fit; None for no step.
        """
        job, journal, rules = self._job, self._job.journal, self._job.recipe.lead
        step = Step(
            state.number + 1,
            math.inf,
            state.train,
            state.validation,
            state.functional,
            job.runtime,
            recipe=job.recipe,
        )
        block, pace = self._new(step), Pace(journal, rules.trial_share)
        done = self._train(block, replace(step, stop=lambda phase, updates: pace.is_over(updates)))
        self._block = block
        rows, law = state.validation.rows(slice(0, job.recipe.keep.judged_densities)), state.functional.law
        log_prob = law.log_prob(rows.x.double()) if closing is None else _log_prob(closing, rows, law)
        by_network, a_check = journal.timed(lambda: _log_prob(block, rows, law))
        an_update = pace.seconds_an_update(a_check, least_share=rules.least_of_updates)
        later = rules.updates(len(state.train))
        if journal.limited:
            later = journal.how_many(an_update, (1, later), share=rules.share)
        doublings = rules.doublings(state.train.dim, later / done.updates)
        by_leaves, spent = journal.timed(lambda: self._gain_of_leaves(block, step, by_network))
        errors = job.recipe.keep.standard_errors
        leaves = rows.mean(by_leaves) > rules.leaf_gain_nats
        leaves = leaves and is_significant(rows, by_leaves, standard_errors=errors)
        tree_seconds = rules.seconds_of_a_tree(spent, len(state.train), state.train.dim)
        share = rules.leaf_share * (1 - rules.share_beside_leaves)
        if journal.limited:
            leaves = leaves and journal.how_many(tree_seconds, rules.trees, share=share) > rules.trees[0]
        gain = by_network + leaves * by_leaves - log_prob + doublings * _gain_of_half(done)
        return {
            "leads": is_significant(rows, gain, standard_errors=errors),
            "updates": done.updates,
            "seconds": an_update,
            "check_seconds": a_check,
            "leaves": leaves,
            "tree_seconds": tree_seconds,
        }

    def _gain_of_leaves(self, block: AutoregressiveBlock, step: Step, by_network: Tensor) -> Tensor:
        """What kernels of few trees of some columns add to log-densities, as if of all columns, nats."""
        rules, dim = self._job.recipe.lead, step.train.dim
        count = min(dim, rules.leaf_columns)
        columns = sorted({round(place) for place in np.linspace(0, dim - 1, count)})
        _grow(block, step, rules.leaf_trial, columns)
        rows = step.validation.rows(slice(0, len(by_network)))
        gain = _log_prob(block, rows, step.functional.law) - by_network
        block.conditionals.leaves = None
        return gain * (dim / count)

    def add_gaussians(self, block: AutoregressiveBlock, step: Step) -> None:
        """Give a block the conditionals of the first closing, where that is a mixture."""
        if self._mixture is not None:
            judged = step.validation.rows(slice(0, step.recipe.keep.judged_densities))
            block.add_gaussians(self._mixture, judged, step.recipe.lead.leaves)

    def block(self, step: Step, updates: int) -> AutoregressiveBlock:
        """The block after so many updates of its trial."""
        found = self._block
        self._block = None
        if found is None:
            found = self._new(step)
            self._train(found, replace(step, stop=lambda phase, made: made >= updates))
        return found

    def _new(self, step: Step) -> AutoregressiveBlock:
        block = self._family.new(step.train, step.gamma, generator=step.stream("initial_weights"))
        assert isinstance(block, AutoregressiveBlock)
        return block

    def _train(self, block: Block, step: Step) -> Descent:
        settings = self._job.recipe.lead.trial(len(step.train), step.train.dim)
        return descend_on_objective(block, step, settings, "auto")


@torch.no_grad()
def _log_prob(block: Block, rows: Particles, law: Law) -> Tensor:
    """Log-density of rows under the law that the block takes to `law`, nats, shape `(n,)`."""
    source = block.source(law)
    if source is not None:
        return source.log_prob(rows.x, rows.context)
    image, log_det = push_block_with_log_det(block, rows)
    return law.log_prob(image.double()) + log_det


def _gain_of_half(done: Descent) -> float:
    """What the second half of a descent gained, nats: about what each doubling of its updates gains."""
    half = [value for made, value in done.history if 2 * made <= done.updates]
    return max(0.0, (half[-1] if half else done.first) - done.best)


def _usable(closing: Block | None, most_products: float) -> MixtureBlock | None:
    """A closing whose conditionals cost no more than so many products of each row that is pulled."""
    if not isinstance(closing, MixtureBlock) or closing.n_components < 2:
        return None
    columns = closing.means.shape[1]
    return closing if closing.n_components * columns**3 <= most_products else None


def _grow(
    block: AutoregressiveBlock, step: Step, rules: LeafRules, columns: Sequence[int] | None = None
) -> None:
    """Give a block kernels by rows of a step, where validation rows like them."""
    generator = step.stream("leaves")
    count = rules.most_rows + max(rules.held_rows)
    rows = (
        step.train.rows(slice(0, count)) if step.train.weight is None else step.train.draw(count, generator)
    )
    judged = step.validation.rows(slice(0, step.recipe.keep.judged_densities))
    seed = int(torch.randint(2**31, (1,), generator=generator))
    block.grow_leaves(rows, judged, rules, seed, columns)


@dataclass(frozen=True)
class _LeadSolver:
    """Trains the block of a trial to its end, and grows its trees.

    Arguments:
        trial: It has the block.
        tried: Updates of the trial.
        updates: Updates after it.
        tree_seconds: CPU-seconds of one tree of every column; None for no trees.
        journal: It knows how many there is time for.
        rules: How blocks that lead are trained.
    """

    trial: _Trial
    tried: int
    updates: int
    tree_seconds: float | None
    journal: Journal
    rules: LeadRules

    def __call__(self, step: Step) -> Solution:
        block = self.trial.block(step, self.tried)
        rules = self.rules
        settings = rules.training(self.updates, len(step.train), step.train.dim)
        with self.journal.holding_back(self._seconds_of_trees()):
            done = descend_on_objective(block, step, settings, "auto")
        self.trial.add_gaussians(block, step)
        trees = self._trees(step)
        if trees:
            _grow(block, step, rules.with_trees(trees))
        return Solution.found(
            block,
            "proximal",
            updates={"proximal": self.tried + done.updates},
            retries=done.retries,
            best_update=done.best_update,
            trees=0 if block.conditionals.leaves is None else trees,
        )

    def _seconds_of_trees(self) -> float:
        """What is held back for trees under a budget."""
        if self.tree_seconds is None or not self.journal.limited:
            return 0.0
        return (1 - self.rules.share_beside_leaves) * self.rules.leaf_share * self.journal.remaining()

    def _trees(self, step: Step) -> int:
        rules, seconds = self.rules, self.tree_seconds
        if seconds is None:
            return 0
        if not self.journal.limited:
            return sum(rules.leaves.trees)

        def affordable() -> int:
            return self.journal.how_many(seconds, rules.trees, share=rules.leaf_share)

        where = {"block": step.number, "round": step.round}
        return int(self.journal.decide("trees", affordable, kinds=(int,), **where))

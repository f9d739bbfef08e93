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
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from jkoflow.blocks import Block
from jkoflow.blocks.log_det import push_block_with_log_det
from jkoflow.fold import proximal_fold
from jkoflow.journal import Pace
from jkoflow.laws import Law
from jkoflow.methods.base import Job
from jkoflow.methods.closing import ClosingSearch, quick_search
from jkoflow.methods.lead_solver import LeadSolver
from jkoflow.particles import Particles
from jkoflow.steps import State, Step, improves, is_significant
from jkoflow.steps.autoregressive import AutoregressiveMaker
from jkoflow.steps.descent import Descent

__all__ = ["with_lead"]


def with_lead(state: State, job: Job) -> State:
    """The state after an autoregressive block, where a trial of it beats the first closing; else as it was.

    Arguments:
        state: Before the first step.
        job: The fit.

    Returns:
        The state, its first closing known where no block leads; `ended` where a budget leaves no time for
        blocks after one that does.
    """
    rules, n_rows = job.recipe.lead, len(state.train)
    if state.train.dim < rules.fewest_columns or rules.trial_updates == 0:
        return state
    quick, _ = quick_search(state, job, round_number=0)
    closing = ClosingSearch(state, quick, job.runtime, job.recipe).best()
    trial = LeadTrial(job, closing.block)
    decided = job.journal.decide("lead", lambda: trial.decided(state), kinds=(dict,))
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
    solver = LeadSolver(
        trial.maker,
        lambda step: trial.block(step, int(decided["updates"])),
        closing.block,
        tried=int(decided["updates"]),
        updates=updates,
        tree_seconds=float(decided["tree_seconds"]) if decided["leaves"] else None,
        journal=job.journal,
    )
    keep = improves(job.recipe.keep.standard_errors)
    led = proximal_fold(state, (math.inf,), replace(job.fold(solver), keep=keep))
    where = {"block": led.number, "round": 0}
    if len(led.flow) == len(state.flow) or not job.journal.limited:
        return led
    if job.journal.decide(
        "blocks after the first",
        lambda: job.journal.leaves(rules.least_after, beside=0.0),
        kinds=(bool,),
        **where,
    ):
        return led
    return replace(led, ended="the budget leaves no time for blocks after the first")


class LeadTrial:
    """A short training of the block; made once, by whoever asks first.

    Arguments:
        job: The fit.
        closing: The step that would end the fit; None for no step.
    """

    def __init__(self, job: Job, closing: Block | None) -> None:
        self._job, self.closing = job, closing
        self.maker = AutoregressiveMaker(job.recipe)
        self._block: Block | None = None

    def decided(self, state: State) -> dict[str, object]:
        """Whether the block beats the closing, the updates of its trial, and CPU-seconds of one of them.

        Arguments:
            state: Before the block.
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
        block, pace = self.maker.new(step), Pace(journal, rules.trial_share)
        done = self._train(block, replace(step, stop=lambda phase, updates: pace.is_over(updates)))
        self._block = block
        rows, law, closing = self.maker.judged(step), state.functional.law, self.closing
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

    def _gain_of_leaves(self, block: Block, step: Step, by_network: Tensor) -> Tensor:
        """What kernels of few trees of some columns add to log-densities, as if of all columns, nats."""
        rules, dim = self._job.recipe.lead, step.train.dim
        count = min(dim, rules.leaf_columns)
        columns = sorted({round(place) for place in np.linspace(0, dim - 1, count)})
        self.maker.grow(block, step, rules.leaf_trial, columns)
        gain = _log_prob(block, self.maker.judged(step), step.functional.law) - by_network
        self.maker.family.drop_leaves(block)
        return gain * (dim / count)

    def block(self, step: Step, updates: int) -> Block:
        """The block after so many updates of its trial."""
        found = self._block
        self._block = None
        if found is None:
            found = self.maker.new(step)
            self._train(found, replace(step, stop=lambda phase, made: made >= updates))
        return found

    def _train(self, block: Block, step: Step) -> Descent:
        settings = self._job.recipe.lead.trial(len(step.train), step.train.dim)
        return self.maker.train(block, step, settings)


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

r"""The closing: a last, free step in closed form, the map to N(0, I) of a mixture fitted to the particles.

    (pi, m, C) = argmax  sum_rows log sum_k pi_k N(x; m_k, C_k),    T its triangular map (`blocks.mixture`)

K = 0 is no step at all, K = 1 whitening, more the maximum by EM. Steps of growing gamma take fine structure
away first; what they leave is ever smoother, until a mixture of few components describes it better than the
steps that are still to come. So a block is worth its place where it lowers the validation NLL of the flow
*closed* after it.

Source: eq. (25) of Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, at gamma = infinity over this family of
maps. The closing is ours. The mean of several mixtures: Smyth & Wolpert (1999), "Linearly combining density
estimators via stacking", Machine Learning 36, at equal weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from jkoflow.blocks import Block, mean_of_mixtures
from jkoflow.journal import Solution
from jkoflow.methods.base import Job
from jkoflow.particles import Particles
from jkoflow.recipe import Recipe, Search
from jkoflow.runtime import Runtime
from jkoflow.steps import Closing, State
from jkoflow.steps.gaussian import best_whitening
from jkoflow.steps.mixture import MixtureRules, mixture_of

__all__ = ["ClosingSearch", "closing_by_nothing", "quick_search", "solution_of"]


@dataclass(frozen=True)
class ClosingSearch:
    """A search for closings of one state.

    Arguments:
        state: The flow to be closed.
        search: How carefully.
        runtime: Device, dtype, seed.
        recipe: The tuned numbers.
    """

    state: State
    search: Search
    runtime: Runtime
    recipe: Recipe
    fewest: ClassVar[int] = 2
    """Components of the smallest mixture: with one its map is whitening."""

    # ── one mixture ──

    def best(self, before: Closing | None = None) -> Closing:
        """The closing that serves the validation rows best.

        One that adds no step is none where the tails are heavy, whose rows lie where N(0, I) has no mass. The
        number of components starts at that of `before`, whose responsibilities EM starts from, and is
        doubled and halved while that helps.

        Arguments:
            before: A closing of a state that had the same rows in the same order; None to start at eight
                components.
        """
        part, first_number = self._part, self.recipe.closing.first_components
        plain = [self._whitening(part)]
        if not self.recipe.closing.background.is_heavy:
            plain.insert(0, closing_by_nothing(self.state, self.recipe))
        most = min(self.search.most_components, self._most_components(part.train))
        if most < self.fewest:
            return min(plain, key=_nll)
        number = first_number if before is None else max(self.fewest, before.n_components)
        carried = None if before is None else before.responsibilities
        first = self._at(number, carried) if number <= most else self._at(most)
        best = self._climbed(first, 2, most)
        if best is first or math.isinf(best.nll):
            best = self._climbed(first, 0.5, most)
        return min(*plain, best, key=_nll)

    def _climbed(self, best: Closing, factor: float, most: int) -> Closing:
        while self.fewest <= (number := int(best.n_components * factor)) <= most:
            following = self._at(number)
            if following.nll >= best.nll < math.inf:
                break
            best = following
        return best

    def _at(self, number: int, responsibilities: Tensor | None = None) -> Closing:
        part = self._part
        found = self._mixture(number, "closing", number, responsibilities=responsibilities)
        if found is None:
            nowhere = torch.full_like(part.log_det, -math.inf)
            return Closing(None, number, nowhere, math.inf)
        return self._judged(found[0], number, found[1])

    # ── the mean of several ──

    def stacked(self, closing: Closing) -> Closing:
        """The mean of mixtures that EM finds from different starts, as many as validation rows ask for.

        EM ends at one of many maxima, each of which errs in its own places, so that the mean of their
        densities errs less than any of them; it bears more components, too: twice as many are tried.

        Arguments:
            closing: What `best` found; it stays where it is no mixture.
        """
        number, rules = closing.n_components, self.recipe.closing
        if number < self.fewest or closing.block is None or self.search.most_members < 2:
            return closing
        choices = [self._grown(closing, [closing.block], number)]
        limits = (
            self.search.most_components,
            rules.most_together // 2,
            self._most_components(self._part.train),
        )
        if 2 * number <= min(limits):
            for block in self._members(2 * number, range(1)):
                choices.append(self._grown(self._judged(block, 2 * number), [block], 2 * number))
        return min(choices, key=_nll)

    def stacked_components(self, number: int) -> int:
        """How many components `stacked` fits at most beside a mixture of `number`."""
        most, together = self.search.most_members, self.recipe.closing.most_together
        if most < 2:
            return 0
        beside = number * (_largest_power(min(most, together // number)) - 1)
        if 2 * number > min(self.search.most_components, together // 2):
            return beside
        return beside + 2 * number * _largest_power(min(most, together // (2 * number)))

    def _grown(self, best: Closing, members: list[Block], number: int) -> Closing:
        rules = self.recipe.closing
        while (
            2 * len(members) <= self.search.most_members and 2 * len(members) * number <= rules.most_together
        ):
            more = self._members(number, range(len(members), 2 * len(members)))
            if not more:
                break
            members = members + more
            following = self._judged(mean_of_mixtures(members), number * len(members))
            if following.nll > best.nll - rules.least_gain_nats:
                break
            best = following
        return best

    def _members(self, number: int, starts: range) -> list[Block]:
        """Mixtures of so many components from these starts of EM; none where EM failed in one."""
        blocks = list[Block]()
        for start in starts:
            found = self._mixture(number, "stacked closing", number, start)
            if found is None:
                return []
            blocks.append(found[0])
        return blocks

    # ── what both need ──

    @cached_property
    def _part(self) -> State:
        """The state with the rows alone that the search looks at."""
        train = self.state.train.rows(slice(0, self.search.rows))
        return self.state.seen_on(self.recipe.keep.judged(self.state.validation), train)

    def _mixture(
        self, number: int, stream: str, *indices: int, responsibilities: Tensor | None = None
    ) -> tuple[Block, Tensor] | None:
        """A fitted mixture where the fit runs; None where EM came to a component of no width."""
        generator = self.runtime.stream(stream, self.state.number, *indices)
        try:
            block, found = mixture_of(
                self._part.train,
                number,
                generator,
                tolerance=self.search.tolerance,
                responsibilities=responsibilities,
                rules=MixtureRules(background=self.recipe.closing.background),
            )
        except ValueError:
            return None
        return block.to(device=self.runtime.device, dtype=self.runtime.dtype), found

    def _judged(self, block: Block, number: int, responsibilities: Tensor | None = None) -> Closing:
        part = self._part
        source = block.source(part.flow.law)
        assert source is not None
        log_prob = part.log_det + source.log_prob(part.validation.x, part.validation.context)
        return Closing.judged(block, number, log_prob, part.validation, responsibilities)

    def _whitening(self, part: State) -> Closing:
        least = self.recipe.keep.least_variance
        background = self.recipe.closing.background
        found = best_whitening(part, self.runtime, least_variance=least, background=background)
        return Closing.judged(found.block, 1, found.after.held_out_log_prob, part.validation)

    def _most_components(self, rows: Particles) -> int:
        return self.recipe.closing.most_components(len(rows), rows.columns)


def closing_by_nothing(state: State, recipe: Recipe) -> Closing:
    """The closing that adds no step, K = 0, judged on the validation rows that decisions look at."""
    part = state.seen_on(recipe.keep.judged(state.validation))
    return Closing.judged(None, 0, part.held_out_log_prob, part.validation)


def solution_of(closing: Closing) -> Solution:
    """The closing as a step that was found."""
    return Solution.found(closing.block, "closed_form", components=closing.n_components)


def quick_search(state: State, job: Job, *, round_number: int) -> tuple[Search, float]:
    """How closings are looked for while blocks are judged, and the CPU-seconds of one component.

    Arguments:
        state: Before the blocks of a round.
        job: The fit.
        round_number: Number of the round.
    """
    recipe, journal = job.recipe, job.journal
    quick = recipe.closing.quick(state.train.columns, len(state.train), journal.budget)
    if not journal.limited:
        return quick, 0.0

    def rehearsed() -> float:
        rows = state.train.rows(slice(0, quick.rows))
        affordable = recipe.budget.rehearsed_products // (len(rows) * rows.columns**2)
        count = min(recipe.budget.rehearsed_components, max(2, affordable), len(rows))
        generator = job.runtime.stream("closing", state.number)

        def work() -> object:
            return mixture_of(rows, count, generator, tolerance=quick.tolerance)

        return journal.timed(work)[1] / count

    seconds = float(journal.decide("closing seconds", rehearsed, kinds=(float, int), round=round_number))
    most = journal.afford(
        "components",
        quick.most_components,
        lambda number: number * seconds,
        share=recipe.budget.mixture_share,
        round=round_number,
    )
    return replace(quick, most_components=most), seconds


def _nll(closing: Closing) -> float:
    return closing.nll


def _largest_power(limit: int) -> int:
    """The largest power of two up to `limit`, and 1 at least."""
    return 1 << max(0, limit.bit_length() - 1)

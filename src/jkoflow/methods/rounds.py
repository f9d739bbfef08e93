"""Rounds of blocks, from the particles' finest scale to the free step, each closed in closed form.

    round = blocks of growing gamma, while each lowers the validation NLL of the flow closed after it; closing

What a closing leaves is nearly normal; a further round starts from its finest scale. Source: ours,
docs/method.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from jkoflow.fold import proximal_fold
from jkoflow.journal import Solution, Taken
from jkoflow.methods.base import Job, schedule_of
from jkoflow.methods.closing import ClosingSearch, closing_by_nothing, quick_search, solution_of
from jkoflow.methods.pilot import Pilot
from jkoflow.methods.started import affordable_blocks, shares_of, started_solver
from jkoflow.recipe import Search
from jkoflow.schedule import Schedule
from jkoflow.steps import Closing, State, is_significant
from jkoflow.steps.gaussian import take_closed_form

__all__ = ["closed_rounds"]


def closed_rounds(state: State, choice: Pilot, job: Job) -> State:
    """The state after `KeepRules.rounds` rounds at most; none follows one that ended without a closing."""
    for number in range(job.recipe.keep.rounds):
        if len(state.flow) >= job.settings.max_blocks:
            return state
        if number and not _has_time(state, job, number):
            return replace(state, ended="the budget leaves no time for another round")
        state, closed = _Round(number, choice, job).run(state)
        if not closed:
            return replace(state, ended="after its blocks no closing gains more than chance")
    return replace(state, ended=f"all {job.recipe.keep.rounds} rounds of blocks and closings are done")


def _has_time(state: State, job: Job, number: int) -> bool:
    """Whether a budget has time for another round, and for pushing all rows through the closing before it."""
    if not job.journal.limited:
        return True
    rules, train = job.recipe.budget, state.train

    def enough() -> bool:
        some, seconds = job.journal.timed(lambda: train.rows(slice(0, rules.rehearsed_rows)))
        push = seconds * len(train) / max(1, len(some))
        return job.journal.leaves(rules.least_for_a_round, beside=push)

    return bool(job.journal.decide("pass", enough, kinds=(bool,), round=number))


@dataclass(frozen=True)
class _Round:
    """Blocks while they are worth their place, and the closing, where it is worth its own.

    Arguments:
        number: Number of the round, from 0.
        choice: What the pilot fits chose.
        job: The fit.
    """

    number: int
    choice: Pilot
    job: Job

    def run(self, state: State) -> tuple[State, bool]:
        """The state after the round, and whether it ended with a closing."""
        schedule, last = self._schedule(state)
        rules, planned = self.job.recipe.budget, state.number + len(schedule.gammas)
        shares = shares_of(
            state,
            self.choice,
            self.job,
            last_step=last,
            reserve=rules.reserve,
            first_share=rules.first_share,
        )
        quick, seconds = quick_search(state, self.job, round_number=self.number)
        if state.closing is None:
            state = replace(state, closing=self._search(state, quick).best())

        def keep(before: State, after: State) -> State | None:
            return self._kept(before, after, quick)

        def more(after: State) -> dict[str, Any]:
            assert after.closing is not None
            known = {"closed_nll_nats": after.closing.nll, "closing_components": after.closing.n_components}
            return {"planned": planned, **known}

        def has_time(after: State) -> bool:
            return after.number >= planned or shares.has_time(after.number + 1, self.number)

        def ended(after: State) -> bool:
            if after.dropped == self.job.recipe.keep.drops or not has_time(after):
                return True
            # the free block takes about ten times as long as another; a mixture does its work in a second
            assert after.closing is not None
            return after.number == last and after.closing.n_components > 1

        fold = self.job.fold(started_solver(self.choice, shares, self.job), round_number=self.number)
        gammas = schedule.gammas if has_time(state) else ()
        after = proximal_fold(
            replace(state, dropped=0), gammas, replace(fold, keep=keep, more=more, ended=ended)
        )
        return self._closed(after, quick, seconds)

    # ── blocks ──

    def _schedule(self, state: State) -> tuple[Schedule, int]:
        """Step sizes, the free one last if there is room, and the number of the last step before it."""
        room = self.job.settings.max_blocks - len(state.flow)
        affordable = affordable_blocks(room, state, self.choice, self.job, round_number=self.number)
        schedule = schedule_of(state, self.job, room=affordable + 1)
        last = state.number + len(schedule.gammas) - 1
        if len(schedule.gammas) > room:
            schedule = replace(schedule, gammas=schedule.gammas[:-1])
        return schedule, last

    def _kept(self, before: State, after: State, quick: Search) -> State | None:
        """Keep a block where the flow closed after it beats the one closed before it, by more than chance."""
        current, rules = before.closing, self.job.recipe.keep
        assert current is not None
        if len(after.flow) >= self.job.settings.max_blocks:
            candidate = closing_by_nothing(after, self.job.recipe)
        else:
            candidate = self._search(after, quick).best(before=current)
        rows, gain = rules.judged(after.validation), candidate.log_prob - current.log_prob
        better = is_significant(rows, gain, standard_errors=rules.standard_errors)
        worth = better and rows.mean(gain) > rules.least_gain_nats
        return replace(after, closing=candidate) if worth else None

    # ── the closing ──

    def _closed(self, state: State, quick: Search, seconds: float) -> tuple[State, bool]:
        """The state after the closing of the round, where it is worth its place, and whether it was."""
        journal, key = self.job.journal, (state.number + 1, self.number)
        if journal.has_step(*key) is False:
            return state, False
        closing = None if journal.has_step(*key) else self._careful(state, quick, seconds)
        if closing is not None and closing.block is None:
            return state, False
        planned = {"round": self.number, "planned": state.number + 1}

        def take(solution: Solution) -> tuple[State, Taken]:
            return take_closed_form(state, solution, round_number=self.number, **planned)

        def solve() -> Solution:
            assert closing is not None
            return solution_of(closing)

        return journal.step(*key, solve=solve, take=take), True

    def _careful(self, state: State, quick: Search, seconds: float) -> Closing:
        """The closing that the round ends with; no step where that is as good."""
        recipe, journal, found = self.job.recipe, self.job.journal, state.closing
        assert found is not None
        search = self._careful_search(state, quick, seconds)
        if 1 < found.n_components <= search.most_components:
            known = found
            again, spent = journal.timed(lambda: self._search(state, search).best(before=known))
            found = min(known, again, key=lambda closing: closing.nll)
            each = recipe.budget.mean_cost * spent / max(1, again.n_components)
            found = self._stacked(found, state, search, each)
        none = closing_by_nothing(state, recipe)
        rows, rules = recipe.keep.judged(state.validation), recipe.keep
        gain = found.log_prob - none.log_prob
        heavy = recipe.closing.background.is_heavy and found.block is not None
        worth = heavy or is_significant(rows, gain, standard_errors=rules.standard_errors)
        return found if worth else none

    def _stacked(self, found: Closing, state: State, search: Search, seconds: float) -> Closing:
        """The mean of as many mixtures as there is time for, where it is better; `seconds` a component."""

        def cost(members: int) -> float:
            tried = self._search(state, replace(search, most_members=members))
            return seconds * tried.stacked_components(found.n_components)

        most = self.job.journal.afford(
            "stacked mixtures",
            search.most_members,
            cost,
            share=self.job.recipe.budget.mean_share,
            round=self.number,
        )
        return self._search(state, replace(search, most_members=most)).stacked(found)

    # ── how carefully ──

    def _search(self, state: State, search: Search) -> ClosingSearch:
        return ClosingSearch(state, search, self.job.runtime, self.job.recipe)

    def _careful_search(self, state: State, quick: Search, seconds: float) -> Search:
        """More rows and components than the quick search; under a budget, as far as there is time."""
        recipe, n_rows = self.job.recipe, len(state.train)
        search = recipe.closing.careful(state.train.columns, n_rows, self.job.journal.budget)
        rows = min(search.rows, n_rows) / min(quick.rows, n_rows)
        each = recipe.budget.careful_cost * rows * seconds
        most = self.job.journal.afford(
            "careful components", search.most_components, lambda number: number * each, round=self.number
        )
        return replace(search, most_components=most)

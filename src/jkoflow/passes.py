"""Passes of blocks from the particles' finest scale to the free step, each closed in closed form.

    pass = blocks of growing gamma, while each lowers the held-out NLL of the flow closed after it; closing

What a closing leaves is nearly normal; a further pass starts from its finest scale. Source: ours,
docs/method.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from jkoflow import recipe
from jkoflow.budget import Decisions
from jkoflow.closing import (
    Closing,
    best_closing,
    close,
    closing_by_nothing,
    mixture_of,
    stacked_closing,
    stacked_components,
)
from jkoflow.closing_search import Search, careful_search, scouting_search
from jkoflow.config import Settings
from jkoflow.fit import FitState, TakenStep, is_significant, proximal_fold, take_closed_form
from jkoflow.pace import Pace, affordable_blocks, paced_trainer
from jkoflow.particles import Particles
from jkoflow.pilot import Pilot
from jkoflow.proximal import DispatchedTrainer
from jkoflow.runtime import Runtime
from jkoflow.schedule import Schedule, resolve_schedule

__all__ = ["closed_passes"]

_RESERVE = 0.15
"""Of what a budget leaves at the start of a pass: held back for its closing."""
_FIRST_SHARE = 1.25
"""Times an even share of a budget for each block: what short steps do not resolve, no later one does."""
_CAREFUL_COST = 2
"""Of a row in a careful search, in those of a scouting one."""
_REHEARSED_COMPONENTS, _REHEARSED_ROWS = 32, 4096
_SEARCH_SHARE = 0.04
"""Of the time that a budget leaves: most that one mixture may take."""
_STACKING_SHARE, _STACKING_COST = 0.5, 0.5
"""Of the time that a budget leaves: most that the mixtures of a mean may take. A component of them costs half
of what the search for the first mixture took for each of its own: others were tried on the way."""
_LEAST_GAIN_NATS = 0.002
"""Of a block, below which it is not worth its time, nor that of every sample and score."""
_DROPS = 2
"""Blocks in a row that are not worth their place, after which a pass ends."""
_PASSES = 2
_LEAST_BUDGET_SHARE = 0.1
"""Of a budget, below which no further pass begins."""


def closed_passes(
    state: FitState,
    choice: Pilot,
    settings: Settings,
    runtime: Runtime,
    decisions: Decisions,
    taken: Sequence[TakenStep],
) -> Iterator[tuple[FitState, TakenStep]]:
    """Take passes until one of them gains nothing, or has no closing that another could follow.

    Arguments:
        state: Where to start.
        choice: The pilot's.
        settings: The options of the fit.
        runtime: Device, dtype, seed.
        decisions: Log and budget.
        taken: Steps that an interrupted fit had finished, in order; they are applied, not trained again.
    """
    number = 0
    while number < _PASSES and len(state.flow) < settings.max_blocks:
        if number and not _has_time(decisions, number, state.train):
            return
        n_blocks = len(state.flow)
        mine = [done for done in taken if done.info["round"] == number]
        steps = _Pass(number, choice, settings, runtime, decisions).steps(state, mine)
        for state, step in steps:
            yield state, step
        if not _is_closing(step) or len(state.flow) == n_blocks:
            return
        number += 1


def _has_time(decisions: Decisions, number: int, train: Particles) -> bool:
    """Whether a budget has time for another pass, and for pushing all rows through the closing before it."""
    if not decisions.limited:
        return True
    assert decisions.budget is not None
    least = _LEAST_BUDGET_SHARE * decisions.budget

    def enough() -> bool:
        before, some = decisions.used(), train.rows(slice(0, _REHEARSED_ROWS))
        push = (decisions.used() - before) * len(train) / max(1, len(some))
        return decisions.remaining() > least + push

    return bool(decisions.decide("pass", enough, round=number))


def _is_closing(step: TakenStep) -> bool:
    return bool(step.info["finished_on"] == "closed_form")


@dataclass(frozen=True)
class _Pass:
    """Blocks while they are worth their place, and the closing, where it is worth its own.

    Arguments:
        number: Of the pass, from 0.
        choice, settings, runtime, decisions: See `closed_passes`.
    """

    number: int
    choice: Pilot
    settings: Settings
    runtime: Runtime
    decisions: Decisions

    def steps(self, state: FitState, taken: Sequence[TakenStep]) -> Iterator[tuple[FitState, TakenStep]]:
        """The pass from `state` on; of an interrupted fit, after the steps that it had `taken`."""
        blocks, closed = [d for d in taken if not _is_closing(d)], [d for d in taken if _is_closing(d)]
        schedule, last = self._schedule(state)
        pace, planned = self._pace(state, last), state.number + len(schedule.gammas)
        closings, drops = self._closings(state), 0
        fold = proximal_fold(
            state,
            schedule=schedule,
            trainer=DispatchedTrainer(paced_trainer(self.choice, pace, self.settings)),
            runtime=self.runtime,
            keep=closings.keep,
            stop=partial(self.decisions.stop_at, round_number=self.number),
            taken=blocks,
            round_number=self.number,
        )
        for taken_before, (state, step) in enumerate(fold, start=1):
            where = {"round": self.number, "planned": planned}
            yield state, TakenStep(step.block, {**step.info, **where, **closings.to_dict()})
            drops = 0 if step.block is not None else drops + 1
            if drops == _DROPS or (closed and taken_before == len(blocks)):
                break
            if state.number == last and closings.of(state).n_components > 1:
                break  # a mixture does in a second what the free block does in ten times a block's
        if closed:
            assert closed[0].block is not None
            yield take_closed_form(state, closed[0].block, self.runtime)[0], closed[0]
        elif (closing := closings.careful(state)).block is not None:
            state, step = close(closing, state, self.runtime)
            where = {"round": self.number, "planned": state.number}
            yield state, TakenStep(step.block, {**step.info, **where})

    def _schedule(self, state: FitState) -> tuple[Schedule, int]:
        """Step sizes, the free one last if there is room, and the number of the last step before it."""
        room = self.settings.max_blocks - len(state.flow)
        affordable = affordable_blocks(
            room, len(state.train), self.choice, self.decisions, round_number=self.number
        )
        schedule = resolve_schedule(
            "auto",
            max_blocks=affordable + 1,
            particles=state.train,
            generator=self.runtime.stream("schedule"),
        )
        last = state.number + len(schedule.gammas) - 1
        if len(schedule.gammas) > room:
            schedule = replace(schedule, gammas=schedule.gammas[:-1])
        return schedule, last

    def _pace(self, state: FitState, last: int) -> Pace:
        return Pace(
            recipe.updates_per_block(len(state.train)),
            last,
            self.decisions,
            self.choice.seconds,
            reserve=_RESERVE * self.decisions.remaining() if self.decisions.limited else 0.0,
            first_share=_FIRST_SHARE,
        )

    def _closings(self, state: FitState) -> _Closings:
        """What knows the closings of the pass; the first is looked for here, it is not what a block costs."""
        scout, seconds = _scouting(state, self.number, self.runtime, self.decisions)
        closings = _Closings(
            self.number, self.runtime, self.decisions, self.settings.max_blocks, scout, seconds
        )
        closings.of(state)
        return closings


def _scouting(state: FitState, number: int, runtime: Runtime, decisions: Decisions) -> tuple[Search, float]:
    """How closings are scouted in a pass, and the CPU-seconds of one component; a budget allows less."""
    scout = scouting_search(state.train.columns, len(state.train), decisions.budget)
    if decisions.budget is None:
        return scout, 0.0

    def rehearsed() -> float:
        before, rows = decisions.used(), state.train.rows(slice(0, scout.rows))
        n_components = min(_REHEARSED_COMPONENTS, len(rows))
        generator = runtime.stream("closing", state.number)
        mixture_of(rows, n_components, generator, tolerance=scout.tolerance)
        return (decisions.used() - before) / n_components

    seconds = float(decisions.decide("closing seconds", rehearsed, round=number))

    def most() -> int:
        limit = _SEARCH_SHARE * decisions.remaining()
        return _affordable(scout.most_components, lambda k: k * seconds, limit)

    return replace(scout, most_components=decisions.decide("components", most, round=number)), seconds


@dataclass
class _Closings:
    """The best closing known of the flow so far, and whether a block makes a better one possible.

    Arguments:
        number: Of the pass.
        runtime: Device, dtype, seed.
        decisions: Log and budget.
        max_blocks: Most blocks of a flow, its closing included.
        scout: How carefully closings of states are looked for that a block may follow.
        seconds: CPU-seconds that one component costs there, under a budget.
    """

    number: int
    runtime: Runtime
    decisions: Decisions
    max_blocks: int
    scout: Search
    seconds: float
    _current: Closing | None = None

    def of(self, state: FitState) -> Closing:
        """The best closing known of `state`, which is the last that was kept."""
        if self._current is None:
            self._current = self._scouted(state)
        return self._current

    def keep(self, before: FitState, after: FitState) -> bool:
        """Whether the flow closed after the block beats the flow closed before it, by more than chance."""
        current, candidate = self.of(before), self._scouted(after)
        gain = candidate.log_prob - current.log_prob
        better = is_significant(gain, standard_errors=1.0) and float(gain.mean()) > _LEAST_GAIN_NATS
        if better:
            self._current = candidate
        return better

    def careful(self, state: FitState) -> Closing:
        """The closing that the pass ends with; no step where that is as good."""
        found = self.of(state)
        search, left = self._careful_search(state.train), self.decisions.remaining()
        if 1 < found.n_components <= search.most_components:
            again = best_closing(state, self.runtime, search, before=found)
            spent = left - self.decisions.remaining()  # not a number without a budget, and not used
            found = min(found, again, key=lambda closing: closing.nll)
            seconds = _STACKING_COST * spent / max(1, again.n_components)
            found = self._stacked(found, state, search, seconds)
        none = closing_by_nothing(state)
        worth = is_significant(found.log_prob - none.log_prob, standard_errors=1.0)
        return found if worth else none

    def _stacked(self, found: Closing, state: FitState, search: Search, seconds: float) -> Closing:
        """The mean of as many mixtures as there is time for, where it is better; `seconds` a component."""
        if self.decisions.limited:

            def most() -> int:
                def cost(members: int) -> float:
                    tried = replace(search, most_members=members)
                    return seconds * stacked_components(found.n_components, tried)

                limit = _STACKING_SHARE * self.decisions.remaining()
                return _affordable(search.most_members, cost, limit)

            search = replace(
                search, most_members=self.decisions.decide("stacked mixtures", most, round=self.number)
            )
        return stacked_closing(found, state, self.runtime, search)

    def to_dict(self) -> dict[str, Any]:
        """What is known of the closed flow, for the record."""
        assert self._current is not None
        return {
            "closed_nll_nats": self._current.nll,
            "closing_components": self._current.n_components,
        }

    def _scouted(self, state: FitState) -> Closing:
        if len(state.flow) >= self.max_blocks:
            return closing_by_nothing(state)
        return best_closing(state, self.runtime, self.scout, before=self._current)

    def _careful_search(self, train: Particles) -> Search:
        """More rows and components than scouts have; under a budget, as far as there is time."""
        search = careful_search(train.columns, len(train), self.decisions.budget)
        if not self.decisions.limited:
            return search
        rows = min(search.rows, len(train)) / min(self.scout.rows, len(train))

        def most() -> int:
            seconds = _CAREFUL_COST * rows * self.seconds
            return _affordable(search.most_components, lambda k: k * seconds, self.decisions.remaining())

        most_components = self.decisions.decide("careful components", most, round=self.number)
        return replace(search, most_components=most_components)


def _affordable(most: int, cost: Callable[[int], float], limit: float) -> int:
    """The largest number, halved from `most` on, that costs no more than `limit`."""
    while most > 1 and cost(most) > limit:
        most //= 2
    return most

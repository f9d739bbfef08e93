r"""The journal of a fit: decisions and steps, recorded before they take effect, and what a budget allows.

A fit that resumes is given the decisions and steps of before. It runs the same method from the start; what is
on record is replayed, in order, instead of being decided or trained again. Without a budget nothing here
reads a clock. With one the clock is read between pieces of work and at the checkpoints of a descent, and what
it causes (how many updates a block gets, or that a descent ends) is a decision like any other.

    time left = budget - used - what follows the last step,    a descent ends at time left < what follows it

What follows the last step (scores, the round trip) is told by a small part of it, done after each block; what
follows a descent (solver steps, inverse, validation) by the blocks so far.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from jkoflow.errors import InputError, RunFolderError
from jkoflow.journal.clock import Clock, cpu_clock
from jkoflow.journal.taken import Solution, Taken
from jkoflow.storage.entries import brief
from jkoflow.world import ALONE, World

__all__ = ["Journal", "Observer"]

S = TypeVar("S")
R = TypeVar("R")
Record = Mapping[str, Any]


class Observer(Protocol):
    """Told of each step with the state after it, and whether it was replayed."""

    def __call__(self, state: Any, taken: Taken, *, replayed: bool) -> None:
        """Tell of a step."""


def _nothing(state: Any, taken: Taken, *, replayed: bool) -> None:
    del state, taken, replayed


class Journal:
    """The decisions and finished steps of a fit and, under a budget, the CPU-seconds that it has used.

    Arguments:
        budget: CPU-seconds for the whole fit; None for no limit.
        decisions: Those of an interrupted fit, replayed before any is taken anew.
        steps: Those that it had finished, in order.
        spent: CPU-seconds that it had used.
        write: Where a new decision is written before it takes effect.
        observe: Told of every step, new or replayed; it stores the new ones.
        rehearse: Does a small part of what follows the last step, from the state so far, and returns how many
            times as much that is in all; asked under a budget alone.
        world: The processes of the fit; the first of them decides and writes.
        clock: CPU-seconds of this process; those of the first one count.

    Raises:
        InputError: A budget that is not above 0.
    """

    def __init__(
        self,
        *,
        budget: float | None = None,
        decisions: Iterable[Record] = (),
        steps: Iterable[Taken] = (),
        spent: float = 0.0,
        write: Callable[[dict[str, Any]], None] = lambda record: None,
        observe: Observer = _nothing,
        rehearse: Callable[[Any], float] = lambda state: 0.0,
        world: World = ALONE,
        clock: Clock = cpu_clock,
    ) -> None:
        if budget is not None and not budget > 0:
            raise InputError(f"budget: expected CPU-seconds > 0, got {budget}")
        self.budget, self.world = budget, world
        self._decided = {_key(entry): entry.get("value") for entry in decisions}
        self._steps = deque(steps)
        self._write, self._observe, self._rehearse, self._clock = write, observe, rehearse, clock
        self._after_last, self._after_descent, self._checkpoint = 0.0, 0.0, math.nan
        self._first: tuple[str, int, float] | None = None
        self._pace: float | None = None
        self._start = clock() - spent if self.limited else math.nan

    # ── decisions and steps ──

    def decide(
        self,
        what: str,
        compute: Callable[[], Any],
        *,
        kinds: tuple[type, ...] = (bool, int, float, str, dict),
        **where: int,
    ) -> Any:
        """The decision `what`, replayed if it is on record, else computed and recorded first.

        Arguments:
            what: Name of the decision.
            compute: Its value, something JSON can hold.
            kinds: What the value is one of; one on record that is none is refused.
            where: Block, round and the like, which make the decision unique.

        Raises:
            RunFolderError: The record has something else in this place.
        """
        entry: dict[str, Any] = {"kind": "decision", "what": what, **where}
        key = _key(entry)
        if key not in self._decided:
            value = self.world.broadcast(compute())
            if self.world.is_first:
                self._write({**entry, "value": value})
            self._decided[key] = value
        if not isinstance(self._decided[key], kinds) or _is_unwanted_bool(self._decided[key], kinds):
            raise RunFolderError(
                f"the record of decisions, steps.jsonl: {what}: expected {kinds[0].__name__}, got"
                f" {brief(self._decided[key])}; restore it from a copy, or start again with --overwrite"
            )
        return self._decided[key]

    def step(
        self,
        number: int,
        round_number: int,
        *,
        solve: Callable[[], Solution],
        take: Callable[[Solution], tuple[S, Taken]],
    ) -> S:
        """The state after a step: solved, or replayed if it is on record, then taken and told of.

        Arguments:
            number: Number of the step; see `Taken`.
            round_number: Number of its round.
            solve: Finds the block.
            take: The state after the block, and the step as it is stored.

        Raises:
            RunFolderError: The record has another step in this place.
        """
        if self._steps and (self._steps[0].number, self._steps[0].round) != (number, round_number):
            there = self._steps[0]
            raise RunFolderError(
                f"the record of steps: expected block {number} of round {round_number} next, got block"
                f" {there.number} of round {there.round}; resume with the version of jkoflow that began the"
                " run (environment.json), or start again with --overwrite"
            )
        done = self._steps.popleft() if self._steps else None
        self._checkpoint, self._first = math.nan, None
        state, taken = take(solve() if done is None else Solution(done.block, done.log))
        self._observe(state, taken, replayed=done is not None)
        if self.limited and not math.isnan(self._checkpoint):
            self.expect_checks(self.used() - self._checkpoint)
        if taken.block is not None:
            self.look_ahead(state)
        return state

    def has_step(self, number: int, round_number: int) -> bool | None:
        """Whether the next step on record is this one; None where no more are on record."""
        if not self._steps:
            return None
        return (self._steps[0].number, self._steps[0].round) == (number, round_number)

    def has_decided(self, what: str, **where: int) -> bool:
        """Whether that decision is on record."""
        return _key({"what": what, **where}) in self._decided

    def stop_at(self, block: int, round_number: int = 0) -> Callable[[str, int], bool]:
        """What a block's descents ask at their checkpoints; always False without a budget."""

        def stop(phase: str, updates: int) -> bool:
            if not self.limited:
                return False
            self._checkpoint = self.used()
            if self._first is None:
                self._first = (phase, updates, self._checkpoint)
            elif self._first[0] == phase:
                _, before, then = self._first
                self._pace = (
                    (self._checkpoint - then) / (updates - before) if updates > before else self._pace
                )
            what, where = f"stop {phase} after updates", {"block": block, "round": round_number}
            if not self.has_decided(what, **where) and self.remaining() > self._after_descent:
                return False
            # on record, a fit that resumes on a slower clock still goes as far as the first one did
            return updates >= int(self.decide(what, lambda: updates, kinds=(int,), **where))

        return stop

    # ── what a budget allows ──

    @property
    def limited(self) -> bool:
        """Whether there is a budget."""
        return self.budget is not None

    def timed(self, work: Callable[[], R]) -> tuple[R, float]:
        """What `work` gives, and the CPU-seconds that it took; 0 without a budget, when no clock is read."""
        if not self.limited:
            return work(), 0.0
        before = self._clock()
        result = work()
        return result, float(self.world.broadcast(self._clock() - before))

    def afford(
        self, what: str, most: int, cost: Callable[[int], float], *, share: float = 1.0, **where: int
    ) -> int:
        """The largest number, halved from `most` on, that costs no more than a share of the time left.

        Arguments:
            what: Name of the decision.
            most: What is wanted, and what there is without a budget.
            cost: CPU-seconds of a number.
            share: Share of the time left.
            where: See `decide`.
        """
        if not self.limited:
            return most

        def halved() -> int:
            number, limit = most, share * self.remaining()
            while number > 1 and cost(number) > limit:
                number //= 2
            return number

        return int(self.decide(what, halved, kinds=(int,), **where))

    def how_many(
        self, seconds: float, within: tuple[int, int], *, share: float = 1.0, beside: float = 0.0
    ) -> int:
        """How many pieces of work of that length fit in a share of the time left, between two ends.

        Arguments:
            seconds: CPU-seconds of one piece.
            within: The fewest and the most that are answered; the most without a budget.
            share: Share of the time left.
            beside: CPU-seconds that something else will take.
        """
        fewest, most = within
        return int(min(max(share * (self.remaining() - beside) / seconds, fewest), most))

    def deadline(self, share: float) -> Callable[[], bool]:
        """Tells whether a share of the time that is left now is over; never, without a budget."""
        if not self.limited:
            return lambda: False
        end = self.used() + share * self.remaining()
        return lambda: self.used() > end

    def leaves(self, share: float, *, beside: float) -> bool:
        """Whether more CPU-seconds are left than `share` of the budget and `beside`; True if no limit."""
        return self.budget is None or self.remaining() > share * self.budget + beside

    def look_ahead(self, state: Any) -> None:
        """Under a budget measure what follows the last step, from a state, by a small part of it."""
        if self.limited:
            times, seconds = self.timed(lambda: self._rehearse(state))
            self._after_last = times * seconds

    def expect_checks(self, seconds: float) -> None:
        """Hold back so many CPU-seconds at least for what follows a descent."""
        self._after_descent = max(self._after_descent, seconds)

    @contextmanager
    def holding_back(self, share: float) -> Iterator[None]:
        """While this lasts, hold back a share of the time left now for what follows a descent."""
        before = self._after_descent
        if self.limited:
            self._after_descent = max(before, share * self.remaining())
        try:
            yield
        finally:
            self._after_descent = before

    @property
    def after_descent(self) -> float:
        """CPU-seconds that what follows a descent has taken at most; 0 before the first."""
        return self._after_descent

    @property
    def seconds_an_update(self) -> float | None:
        """CPU-seconds of an update in the first descent of the last step, judging included, or None."""
        return self._pace

    @property
    def after_last(self) -> float:
        """CPU-seconds of what would follow if the step before were the last; 0 before the first."""
        return self._after_last

    def spent(self) -> str:
        """How much of a budget is used, for the record, as the end of a list; "" without one."""
        return f", {self.used():.0f} of {self.budget:g} CPU-seconds" if self.limited else ""

    def used(self) -> float:
        """CPU-seconds of the first process so far, those of the interrupted fit included."""
        return float(self.world.broadcast(self._clock() - self._start))

    def remaining(self) -> float:
        """CPU-seconds left for steps; infinite without a budget."""
        return math.inf if self.budget is None else self.budget - self.used() - self._after_last


def _is_unwanted_bool(value: object, kinds: tuple[type, ...]) -> bool:
    """True and false are whole numbers to Python, and no counts."""
    return isinstance(value, bool) and bool not in kinds


def _key(entry: Record) -> str:
    return "/".join(
        f"{name}={entry[name]}" for name in sorted(entry) if name not in ("kind", "value", "format")
    )

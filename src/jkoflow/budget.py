r"""Decisions that are recorded before they take effect, and the budget in CPU-seconds that may cause them.

Without a budget nothing here reads a clock. With one, the clock is read at checkpoint boundaries only; what
it causes (how many updates a block gets, or that a descent ends) is written to the log first, and a fit
that resumes replays the log instead of reading the clock again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from jkoflow.errors import InputError

__all__ = ["Decisions"]

Record = dict[str, Any]


@dataclass
class Decisions:
    """The log of decisions of one fit; the one part of a fit that has a memory of its own.

    Arguments:
        budget: CPU-seconds for the whole fit; None for no limit.
        recorded: Decisions of an interrupted fit, replayed before any is taken anew.
        record: Where a new decision is written before it takes effect.
        spent: CPU-seconds that the interrupted fit had used.
        clock: CPU-seconds of this process.
    """

    budget: float | None = None
    recorded: Iterable[Record] = ()
    record: Callable[[Record], None] = lambda record: None
    spent: float = 0.0
    clock: Callable[[], float] = time.process_time
    _replay: dict[str, Any] = field(init=False, repr=False)
    _start: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.budget is not None and not self.budget > 0:
            raise InputError(f"budget: expected CPU-seconds > 0, got {self.budget}")
        self._replay = {_key(entry): entry["value"] for entry in self.recorded}
        self._start = self.clock() if self.limited else math.nan

    @property
    def limited(self) -> bool:
        """Whether there is a budget."""
        return self.budget is not None

    def used(self) -> float:
        """CPU-seconds used so far, those of the interrupted fit included; NaN without a budget."""
        return self.spent + self.clock() - self._start

    def remaining(self) -> float:
        """CPU-seconds left; infinite without a budget."""
        return math.inf if self.budget is None else self.budget - self.used()

    def decide(self, what: str, compute: Callable[[], Any], **where: int) -> Any:
        """The decision `what`, replayed if it is on record, else computed and recorded first.

        Arguments:
            what: Name of the decision.
            compute: Its value, something JSON can hold.
            where: Block, round and the like, which make the decision unique.
        """
        entry: Record = {"kind": "decision", "what": what, **where}
        key = _key(entry)
        if key not in self._replay:
            value = compute()
            self.record({**entry, "value": value})
            self._replay[key] = value
        return self._replay[key]

    def is_decided(self, what: str, **where: int) -> bool:
        """Whether the decision is on record."""
        return _key({"what": what, **where}) in self._replay

    def stop_at(self, block: int, round_number: int = 0) -> Callable[[str, int], bool]:
        """What a block's descents ask at their checkpoints; always False without a budget."""

        def stop(phase: str, updates: int) -> bool:
            if not self.limited:
                return False
            what, where = f"stop {phase} after updates", {"block": block, "round": round_number}
            if not self.is_decided(what, **where) and self.remaining() > 0:
                return False
            # on record, a fit that resumes on a slower clock still goes as far as the first one did
            return updates >= int(self.decide(what, lambda: updates, **where))

        return stop


def _key(entry: Record) -> str:
    return "/".join(
        f"{name}={entry[name]}" for name in sorted(entry) if name not in ("kind", "value", "format")
    )

"""What a fit is doing: a header, then a line for each block with an estimate of the time left.

    time left = (blocks left) x (mean seconds of a block so far)

It is the clock on the wall, since a person waits, and it is read for these lines alone: no decision of the
training sees it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from jkoflow.cli.terminal import tell
from jkoflow.estimator import progress_line

__all__ = ["Progress", "format_seconds"]

_LEGEND = (
    "loss = potential + (-log det) + transport, in nats of the standardised columns; "
    "validation NLL, by which blocks are chosen, in nats of the table's own units"
)


class Progress:
    """Tells each record of a fit on stderr.

    Arguments:
        clock: Reads the time, in seconds, for the estimate of the time left.
        instant: Seconds; what took less was a step in closed form or one read from a checkpoint, and says
            nothing of how long the next block takes.

    Attributes:
        header: Lines that come first, once the table has been accepted.
        started: Whether the fit has begun, so that the run folder exists.
        steps: Steps that are finished and kept on the disk.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, instant: float = 0.2) -> None:
        self.header: list[str] = []
        self.started, self.steps = False, 0
        self._clock, self._last, self._instant = clock, clock(), instant
        self._seconds: list[float] = []
        self._taken = 0

    def __call__(self, record: dict[str, Any]) -> None:
        """Tell one record."""
        if record["kind"] == "start":
            self._begin(record)
        else:
            self._step(record)

    def _begin(self, record: dict[str, Any]) -> None:
        self.started, self._taken = True, int(record["taken"])
        notes = [f"note: {note}" for note in record["notes"]]
        begin = (
            f"going on after {self._taken} finished block(s), read from the run folder"
            if self._taken
            else _LEGEND
        )
        for line in (*self.header, progress_line(record), *notes, begin):
            tell(line)
        self._last = self._clock()

    def _step(self, record: dict[str, Any]) -> None:
        now = self._clock()
        seconds, self._last = now - self._last, now
        self.steps += 1
        if self.steps <= self._taken:
            return
        if seconds > self._instant and (self._seconds or self.steps > 1):
            self._seconds.append(seconds)
        tell(f"{progress_line(record)}{self._left(record)}")

    def _left(self, record: dict[str, Any]) -> str:
        blocks = record.get("planned", 0) - record["block"]
        if not self._seconds or blocks <= 0:
            return ""
        return f"  about {format_seconds(blocks * sum(self._seconds) / len(self._seconds))} left"


def format_seconds(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"

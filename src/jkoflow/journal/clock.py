"""CPU-seconds: how a fit's time is told in its record, and how a budget is measured."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Clock", "Stopwatch", "cpu_clock"]

Clock = Callable[[], float]
"""CPU-seconds since some moment."""

cpu_clock: Clock = time.process_time
"""CPU-seconds of this process."""


class Stopwatch:
    """CPU-seconds of a fit, for the record only: no decision looks at it.

    Arguments:
        spent: CPU-seconds that the interrupted fit had used.
    """

    def __init__(self, spent: float = 0.0) -> None:
        self._start = cpu_clock() - spent
        self._last = spent

    def seconds(self) -> float:
        """CPU-seconds so far, those of the interrupted fit included."""
        return cpu_clock() - self._start

    def lap(self) -> dict[str, float]:
        """CPU-seconds since the last lap, and so far."""
        before, self._last = self._last, self.seconds()
        return {"cpu_seconds": self._last - before, "cpu_seconds_so_far": self._last}

"""Clocks for tests of budgets."""

from __future__ import annotations

__all__ = ["Clock"]


class Clock:
    """CPU-seconds that pass at every look."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 0.0, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now

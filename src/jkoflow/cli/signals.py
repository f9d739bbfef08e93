"""SIGTERM and SIGHUP end a verb as Ctrl-C does: what is open is closed, and a line says what is left.

    handler(n) -> KeyboardInterrupt -> ... -> exit status 128 + n

Signals that are ignored, as by `nohup`, or that have a handler already stay as they are. After the first,
further ones are ignored: a terminal that closes sends two, and the second must not cut short what the first
has begun to close. Source: POSIX.1-2017, "exit status for commands"; signal(7).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from jkoflow.cli.status import ExitStatus

__all__ = ["Ending", "ended_by_signals"]


@dataclass
class Ending:
    """Which signal ended a verb, if one did.

    Arguments:
        by: The signal; None for Ctrl-C, or while nothing has come.
    """

    by: signal.Signals | None = None

    @property
    def status(self) -> int:
        """The exit status that shells expect."""
        return ExitStatus.INTERRUPTED if self.by is None else 128 + self.by

    @property
    def prefix(self) -> str:
        """What the line about it begins with."""
        return "" if self.by is None else f"{self.by.name}: "

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signals."""
        del frame
        if self.by is None:
            self.by = signal.Signals(number)
            raise KeyboardInterrupt


@contextmanager
def ended_by_signals() -> Iterator[Ending]:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt within the block; handlers are then as they were."""
    ending = Ending()
    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]  # Windows has no SIGHUP
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in taken:
            signal.signal(number, ending)
        yield ending
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)

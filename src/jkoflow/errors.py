"""The exception tree: one class per way of going wrong, each with its exit status.

JKOFlowError
├── InputError        wrong usage or input                      exit status 2
├── NumericalError    a block diverged or cannot be inverted    exit status 3
├── RunFolderError    a run folder or model file is missing,
│                     damaged, locked, or already there         exit status 4
└── ProcessError      another process of the same fit is gone   exit status 4
"""

from __future__ import annotations

import reprlib
from typing import ClassVar

__all__ = ["InputError", "JKOFlowError", "NumericalError", "ProcessError", "RunFolderError", "brief"]


class JKOFlowError(Exception):
    """Base of every error that the library raises on purpose; the message is one line."""

    exit_status: ClassVar[int] = 1


class InputError(JKOFlowError, ValueError):
    """Input that is refused at the door; the message says what was expected, what came, and the remedy."""

    exit_status = 2


class NumericalError(JKOFlowError, ArithmeticError):
    """A computation that left the numbers it can be trusted on.

    Arguments:
        what: What happened, in a few words.
        block: Number of the block, counted from 1; None outside a block.
        step: Update or solver step at which it happened; None where there is none.
        time: Block time in [0, 1]; None where there is none.
        remedy: What the user can change.
    """

    exit_status = 3

    def __init__(
        self,
        what: str,
        *,
        block: int | None = None,
        step: int | None = None,
        time: float | None = None,
        remedy: str,
    ) -> None:
        self.what, self.block, self.step, self.time, self.remedy = what, block, step, time, remedy
        where = ", ".join(
            f"{name} {value:g}"
            for name, value in (("block", block), ("step", step), ("time", time))
            if value is not None
        )
        super().__init__(f"{what}{f' ({where})' if where else ''}; {remedy}")


class RunFolderError(JKOFlowError, OSError):
    """A run folder or model file that cannot be used as asked; what is on the disk stays as it was."""

    exit_status = 4


class ProcessError(JKOFlowError):
    """Another process of the same fit is gone, or does not answer; what is on the disk is whole."""

    exit_status = 4


def brief(value: object, *, most: int = 60) -> str:
    """A value as a message shows it: at most so many characters, whatever it is."""
    try:
        text = repr(value) if isinstance(value, str) else reprlib.repr(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits, a list of lists of lists
        text = type(value).__name__
    return text if len(text) <= most else f"{text[: most - 1]}…"

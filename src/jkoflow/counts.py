"""Numbers of things: rows, blocks, dimensions, seeds; whole, and said to be so where they are not.

    count in {least, least + 1, ...},    of Python or NumPy, but no truth value, no text, no float

Source: ours; a float that happens to be whole is refused, since the next one will not be.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, TypeGuard

import numpy as np

from jkoflow.errors import InputError, brief

__all__ = ["checked_count", "is_count"]


def is_count(value: object) -> TypeGuard[int | np.integer[Any]]:
    """Whether `value` is a whole number of Python or NumPy, and no truth value."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def checked_count(value: object, name: str, *, least: int | None = 1, most: int | None = None) -> int:
    """`value` as an `int`.

    Arguments:
        value: What was given.
        name: Of the argument or option, for the message.
        least: The smallest that is accepted; None where any whole number is, as for a seed.
        most: The largest that is accepted; None for no limit.

    Raises:
        InputError: It is no whole number, or out of range.
    """
    if not is_count(value):
        raise InputError(f"{name}: expected a whole number, got {brief(value)}; {_remedy(value, least)}")
    count = int(value)
    if least is not None and count < least:
        raise InputError(f"{name}: expected at least {least}, got {brief(count)}; pass {least} or more")
    if most is not None and count > most:
        raise InputError(f"{name}: expected at most {most:,}, got {brief(count)}; pass {most} or less")
    return count


def _remedy(value: object, least: int | None) -> str:
    """The whole number that was meant, where one can be guessed."""
    with suppress(ValueError, OverflowError):
        if isinstance(value, str | float | np.floating):
            number = float(value)
            if number == int(number) and abs(number) < 1e15:
                return f"pass {int(number)}"
    return f"pass a number such as {1 if least is None else max(1, least)}"

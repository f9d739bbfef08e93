"""Entries of a stored record, checked one by one before anything is computed or allocated by them.

    record["steps"] = 2.5   ->   ValueError: steps: expected a whole number from 1 on, got 2.5

The caller adds the file's name and the remedy. Source: ours.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from jkoflow.errors import brief

__all__ = ["brief", "checked_real", "checked_text", "checked_whole", "is_whole", "require_names"]


def is_whole(value: object) -> bool:
    """Whether a value is a whole number; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def checked_whole(
    record: Mapping[str, Any],
    name: str,
    *,
    least: int = 0,
    most: int | None = None,
    default: int | None = None,
) -> int:
    """The whole number `record[name]`.

    Arguments:
        record: An object of JSON.
        name: The entry.
        least: Smallest value that is in range.
        most: Largest one; None for no limit.
        default: What a missing entry stands for; None where it must be there.

    Raises:
        ValueError: It is missing, no whole number, or out of range.
    """
    value = record.get(name, default)
    if not is_whole(value) or value < least or (most is not None and value > most):
        wanted = f"from {least} on" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}: expected a whole number {wanted}, got {brief(value)}")
    return int(value)


def checked_real(record: Mapping[str, Any], name: str, *, above: float | None = None) -> float:
    """The finite number `record[name]`, larger than `above` where that is given.

    Raises:
        ValueError: It is missing, no number, beyond the range of a float, or not above that.
    """
    value, number = record.get(name), math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    if not math.isfinite(number) or (above is not None and number <= above):
        wanted = "a finite number" if above is None else f"a finite number above {above:g}"
        raise ValueError(f"{name}: expected {wanted}, got {brief(value)}")
    return number


def checked_text(record: Mapping[str, Any], name: str) -> str:
    """The text `record[name]`.

    Raises:
        ValueError: It is missing or no text.
    """
    value = record.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected text, got {brief(value)}")
    return value


def require_names(record: object, needed: Collection[str], *, optional: Collection[str] = ()) -> None:
    """Refuse what is no object of JSON, or one whose entries are not those needed and some of the optional.

    Raises:
        ValueError: So it is; the message names the first such entry.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"expected a table of settings, got {brief(record)}")
    known = {*needed, *optional}
    missing, unknown = sorted({*needed} - set(record)), sorted(set(record) - known)
    if missing:
        raise ValueError(f"{missing[0]}: the entry is missing")
    if unknown:
        raise ValueError(f"{brief(unknown[0])}: unknown entry, expected {', '.join(sorted(known))}")

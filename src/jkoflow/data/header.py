"""The first line of a table in text: whether it names columns, and names that a spreadsheet would run.

    name =a  ↔  '=a in the file

A cell that begins with `=`, `+`, `-` or `@` is a formula to a spreadsheet, whatever wrote it. Such a name is
written behind an apostrophe, which spreadsheets take for "this is text", and read back without it. Source:
OWASP, "CSV Injection".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from jkoflow.errors import InputError
from jkoflow.storage import shown

__all__ = ["check_header", "guarded", "has_header", "unguarded"]

_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def guarded(name: str) -> str:
    """A column's name as it is written to text: behind an apostrophe where it would be a formula."""
    return f"'{name}" if _FORMULA.match(name) else name


def unguarded(name: str) -> str:
    """The name that `guarded` wrote."""
    return name[1:] if name.startswith("'") and _FORMULA.match(name) else name


def has_header(path: Path, fields: Sequence[str]) -> bool:
    """A line of numbers is a row, unless it counts 0, 1, 2, … as pandas names the columns of an array."""
    try:
        numbers = [float(field) for field in fields]
    except ValueError:
        return True
    counts = fields == [str(i) for i in range(len(fields))]
    if counts and len(numbers) < 3:
        raise InputError(
            f"{shown(path)}: the first line, {', '.join(fields)}, may be a header or a row; name the columns"
        )
    return counts


def check_header(path: Path, fields: Sequence[str]) -> None:
    """Refuse a header with a column that has no name, or with one name that holds another separator.

    Raises:
        InputError: So it is.
    """
    if "" in fields:
        place = fields.index("") + 1
        raise InputError(
            f"{shown(path)}: column {place} has no name; name it, or drop a row index (to_csv(index=False))"
        )
    if len(fields) == 1 and any(mark in fields[0] for mark in (";", "\t", "|", ",")):
        raise InputError(
            f"{shown(path)}: one column named {fields[0]!r}; separate .csv with commas, .tsv with tabs"
        )

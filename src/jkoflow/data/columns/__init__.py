"""The kinds of column: which one a column is of, and how it comes back from the disk.

    values -> `find_column` -> `Column` -> `to_dict` -> JSON -> `column_from_dict` -> `Column`

Source: the maps are those of `jkoflow.data.columns.base`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from jkoflow.data.columns.base import Column, ColumnSample, Finding, Note, require_keys
from jkoflow.data.columns.continuous import ContinuousColumn
from jkoflow.data.columns.grid import GridColumn

__all__ = [
    "COLUMNS",
    "Column",
    "ColumnSample",
    "ContinuousColumn",
    "Finding",
    "GridColumn",
    "Note",
    "column_from_dict",
    "find_column",
    "require_keys",
]

COLUMNS: dict[str, type[Column]] = {
    GridColumn.kind: GridColumn,
    ContinuousColumn.kind: ContinuousColumn,
}
"""Each kind by name, in the order in which they are asked; the last one takes every column."""


def find_column(sample: ColumnSample, kinds: Collection[type[Column]]) -> Finding:
    """The column of the first of these kinds that takes it.

    Raises:
        ValueError: None of them does.
    """
    for kind in kinds:
        found = kind.read(sample)
        if found is not None:
            return found
    raise ValueError(f"column {sample.name} is of none of the kinds {[kind.kind for kind in kinds]}")


def column_from_dict(entry: object) -> Column:
    """Rebuild a column from what `Column.to_dict` returned.

    Raises:
        ValueError: It is damaged, or of a kind that is not known.
    """
    if not isinstance(entry, Mapping):
        raise ValueError("a column is not an object")
    entry = entry if "kind" in entry else _with_kind(entry)
    if entry["kind"] not in COLUMNS:
        raise ValueError(f"column of kind {entry['kind']!r}, expected one of {list(COLUMNS)}")
    return COLUMNS[entry["kind"]].from_dict(entry)


def _with_kind(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of before kinds were written: its step was null where the column was continuous."""
    if entry.get("step") is None:
        return {"kind": ContinuousColumn.kind, **{key: entry[key] for key in entry if key != "step"}}
    return {"kind": GridColumn.kind, **entry}

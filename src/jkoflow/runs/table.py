"""Reads again the table that a run was fitted to: where it was, or from the run folder, and only unchanged.

    SHA-256(file now) = SHA-256(file at the fit), or there is no table

Source: ours: a run keeps the path and the hash, never the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jkoflow.data import Table, Weights, checked_weight, counted_rows, hash_file, read_table
from jkoflow.errors import InputError
from jkoflow.runs import RunFolder
from jkoflow.runs.entries import require_entries
from jkoflow.storage import shown

__all__ = ["FoundTable", "find_table"]


@dataclass(frozen=True)
class FoundTable:
    """The table that a run was fitted to.

    Arguments:
        table: The columns that were learned.
        context: Those that it was conditioned on, or None.
        weight: How much each row counted, shape `(n,)`; None where all counted the same.

    Rows of weight 0 are left out.
    """

    table: Table
    context: Table | None
    weight: Weights | None


def find_table(run: RunFolder) -> tuple[FoundTable | None, str]:
    """The run's table, or None and one line that says why it cannot be had."""
    require_entries(run, ("table.path", "table.sha256", "table.columns", "context", "context.columns"))
    record, given = run.description["table"], run.description["context"]
    weights = run.description.get("weights")
    try:
        full = read_table(_unchanged(run.path, record["path"], record["sha256"]))
        context = None if given is None else full.select(given["columns"])
        weight = None
        if weights is not None:
            if weights.get("column") is None:
                raise InputError("the weights came from memory")
            weight = checked_weight(full.select([weights["column"]]).values[:, 0], full)
        return FoundTable(*counted_rows(full.select(record["columns"]), context, weight)), ""
    except InputError as error:
        return None, str(error)


def _unchanged(run: Path, name: str | None, sha256: str | None) -> Path:
    """Where the table is now: where it was, or in the run folder; InputError where it is not to be had."""
    if name is None:
        raise InputError("the table came from memory, and a run keeps no rows")
    path = next((path for path in (Path(name), run / Path(name).name) if path.is_file()), None)
    if path is None:
        raise InputError(
            f"{shown(name)}: the table is not there any more; put it back, and its rows are read again"
        )
    if hash_file(path) != sha256:
        raise InputError(
            f"{shown(path)}: the table has changed since the fit; put the old one back, and it is read again"
        )
    return path

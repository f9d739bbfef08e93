"""Reads again the table that a run was fitted to: where it was, or from the run folder, and only unchanged.

    SHA-256(file now) = SHA-256(file at the fit), or there is no table

Source: the file contract of the architecture: a run keeps the path and the hash, never the rows.
"""

from __future__ import annotations

from pathlib import Path

from jkoflow.data import Table, hash_file, read_table
from jkoflow.errors import InputError
from jkoflow.runs import RunFolder
from jkoflow.storage import shown

__all__ = ["find_table"]


def find_table(run: RunFolder) -> tuple[Table | None, Table | None, str]:
    """The run's table and its context columns, or one line that says why they cannot be had."""
    record, given = run.description["table"], run.description["context"]
    try:
        full = read_table(_unchanged(run.path, record["path"], record["sha256"]))
        context = None if given is None else full.select(given["columns"])
        return full.select(record["columns"]), context, ""
    except InputError as error:
        return None, None, str(error)


def _unchanged(run: Path, name: str | None, sha256: str | None) -> Path:
    """Where the table is now: where it was, or in the run folder; InputError where it is not to be had."""
    if name is None:
        raise InputError("the table came from memory")
    path = next((path for path in (Path(name), run / Path(name).name) if path.is_file()), None)
    if path is None:
        raise InputError(f"{shown(name)}: the table is not there any more; put it back to have them")
    if hash_file(path) != sha256:
        raise InputError(
            f"{shown(path)}: the table has changed since the fit; put the old one back to have them"
        )
    return path

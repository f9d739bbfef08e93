"""The model that a certificate is of, as the next command names it: its folder, its table, its options.

Source: ours; `jkoflow certify --help` and `jkoflow fit --help` explain the options.
"""

from __future__ import annotations

from dataclasses import dataclass

from jkoflow.config import Settings
from jkoflow.model import Model
from jkoflow.runs import RunFolder

__all__ = ["Subject", "subject_of"]

_LIMITING = ("gamma", "max_blocks", "objective", "closing", "block", "law", "budget")
"""Settings by which a fit may end before it is as good as the defaults make it."""


@dataclass(frozen=True)
class Subject:
    """The model that is spoken of, for the next command.

    Arguments:
        path: Its run folder, or its model folder.
        is_run: Whether it is a run folder, which keeps its certificates and has held-out rows of its own.
        table: The table that it was fitted to.
        options: Of `jkoflow fit` beside table and folder, such as the columns of a context.
        rows: Of the table; None where that is not known.
        has_defaults: Whether it was fitted with the defaults, so that the fit ended by itself.
    """

    path: str = "RUN"
    is_run: bool = True
    table: str = "TABLE.csv"
    rows: int | None = None
    options: tuple[str, ...] = ()
    has_defaults: bool = True


def subject_of(model: Model, path: str, run: RunFolder | None) -> Subject:
    """The model in the folder `path`, that of `run`, or a model folder by itself where that is None."""
    plain, settings = Settings(), model.settings
    has_defaults = all(getattr(settings, name) == getattr(plain, name) for name in _LIMITING)
    if run is None:
        return Subject(path, is_run=False, has_defaults=has_defaults)
    table = run.description["table"]
    columns = (run.description.get("context") or {}).get("columns")
    weights = (run.description.get("weights") or {}).get("column")
    options = (
        *(("--context", ",".join(columns)) if columns else ()),
        *(("--weights", weights) if weights else ()),
    )
    name = table["path"] or Subject.table
    return Subject(path, table=name, options=options, rows=table["rows"], has_defaults=has_defaults)

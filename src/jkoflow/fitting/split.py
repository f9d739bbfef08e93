r"""Which rows of a table do what: trained on, looked at by choices, looked at by nothing.

    rank = seeded permutation of the groups of copies;   holdout | validation | train by rank

Rows that are exact copies of each other stay on the same side, and near copies too (`data.near_copies`), so
that no held-out row was trained on, nor one that is nearly it. Source: ours.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from jkoflow.config import Settings
from jkoflow.data import Table, Weights
from jkoflow.data.distinct import group_rows
from jkoflow.data.near_copies import Groups, group_copies
from jkoflow.runtime import Runtime

__all__ = [
    "Split",
    "describe",
    "described_weights",
    "recognise_by",
    "split_of_run",
    "split_rows",
]


@dataclass(frozen=True)
class Split:
    """Row numbers of the table: trained on, looked at by choices, looked at by nothing.

    Arguments:
        train: Trained on.
        validation: Looked at by choices.
        holdout: Looked at by nothing.
        copies: The groups that stayed together, where some of them are of near copies; None where none is.
    """

    train: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]
    holdout: npt.NDArray[np.int64]
    copies: Groups | None = None

    def parts(self) -> dict[str, npt.NDArray[np.int64]]:
        """The row numbers of each part, by its name."""
        return {"train": self.train, "validation": self.validation, "holdout": self.holdout}

    def sizes(self) -> dict[str, int]:
        """Rows of each part."""
        return {name: len(rows) for name, rows in self.parts().items()}

    def groups_of(self, part: str) -> npt.NDArray[np.int64] | None:
        """The number of the group of each row of a part; None where no rows are near copies."""
        return None if self.copies is None else self.copies.group[self.parts()[part]]

    def notes(self) -> tuple[str, ...]:
        """What the summary says of near copies; nothing where there are none."""
        if self.copies is None:
            return ()
        return (
            f"{self.copies.near_rows:,} rows lie closer to others than chance allows: "
            f"{self.copies.near_groups:,} groups of near copies, each of which stays on one side of the "
            "split; what is told of held-out rows is told of groups that the fit did not see",
        )


def split_rows(table: Table, settings: Settings, *, near_copies: bool = True) -> Split:
    """A seeded split in which copies of a row stay together.

    Arguments:
        table: The rows.
        settings: Shares and seed.
        near_copies: Whether near copies are looked for; without, exact ones alone stay together.
    """
    if near_copies:
        copies = group_copies(table.values)
    else:
        exact = group_rows(table.values)
        copies = Groups(exact, int(exact.max()) + 1)
    group, n_groups = copies.group, copies.n_groups
    generator = Runtime(settings.seed).stream("split")
    rank = torch.randperm(n_groups, generator=generator).numpy()[group]
    n_holdout = round(settings.holdout_fraction * n_groups)
    n_validation = max(1, round(settings.validation_fraction * n_groups))
    rows = np.argsort(rank, kind="stable")
    ordered = rank[rows]
    return Split(
        train=rows[ordered >= n_holdout + n_validation],
        validation=rows[(ordered >= n_holdout) & (ordered < n_holdout + n_validation)],
        holdout=rows[ordered < n_holdout],
        copies=copies if copies.near_groups else None,
    )


def split_of_run(table: Table, settings: Settings, description: dict[str, Any] | None) -> Split:
    """The split of a run by what is on record of it, None where it is new.

    A run of before near copies were looked for did not group them.
    """
    if description is None:
        return split_rows(table, settings)
    return split_rows(table, settings, near_copies="near_copies" in description.get("split", {}))


def describe(
    table: Table,
    context: Table | None,
    settings: Settings,
    split: Split,
    weight: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What `run.json` keeps to recognise the fit by: never the rows.

    Arguments:
        table: The rows.
        context: What they are conditioned on, or None.
        settings: The options of the fit.
        split: Which rows do what.
        weight: What is told of the weights, their column and their SHA-256; None where there are none.
    """
    copies = split.copies
    near = {} if copies is None else {"groups": copies.near_groups, "rows": copies.near_rows}
    rule = "seeded permutation of distinct rows; holdout, validation, train"
    told = {
        "settings": settings.to_dict(),
        "seed": settings.seed,
        "table": {
            "path": table.source,
            "sha256": table.sha256,
            "rows": len(table),
            "columns": list(table.columns),
        },
        "context": None if context is None else {"sha256": context.sha256, "columns": list(context.columns)},
        "split": {**split.sizes(), "rule": rule, **({"near_copies": near} if near else {})},
    }
    return told if weight is None else {**told, "weights": weight}


def described_weights(weight: Weights | None, column: str | None) -> dict[str, Any] | None:
    """What `run.json` keeps of the weights: their column, None where from memory, and their SHA-256."""
    if weight is None:
        return None
    return {"column": column, "sha256": hashlib.sha256(weight.tobytes()).hexdigest()}


def recognise_by(description: dict[str, Any]) -> dict[str, Any]:
    """The part of `describe` that a resumed fit must share: all but the path, since a table may be moved."""
    table = {key: value for key, value in description["table"].items() if key != "path"}
    return {**description, "table": table}

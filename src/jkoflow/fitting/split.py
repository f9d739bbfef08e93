r"""Which rows of a table do what: trained on, looked at by choices, looked at by nothing.

    rank = seeded permutation of the groups of copies;   holdout | validation | train by rank

Rows that are exact copies of each other stay on the same side, and near copies too (`data.near_copies`), so
that no held-out row was trained on, nor one that is nearly it. Gross outliers (`data.outliers`) are drawn
apart, to be judged on by the same chance as any row; no other part of the fit looks at them, and all other
rows have the parts that they would have without them. Source: ours.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from jkoflow.config import Settings
from jkoflow.data import Table, Weights
from jkoflow.data.distinct import group_rows
from jkoflow.data.near_copies import Groups, group_copies
from jkoflow.data.outliers import Outliers, find_outliers
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
        train: What blocks are trained on.
        validation: What choices look at.
        holdout: What nothing looks at, gross outliers among them by chance.
        copies: The groups that stayed together, where some of them are of near copies; None where none is.
        outliers: Gross outliers that belong to the rows that choices look at, but are only judged on.
        aside: The other gross outliers, which nothing looks at.
        far: What of the table lies far out; None where nobody looked.
    """

    train: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]
    holdout: npt.NDArray[np.int64]
    copies: Groups | None = None
    outliers: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    aside: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    far: Outliers | None = None

    def parts(self) -> dict[str, npt.NDArray[np.int64]]:
        """The row numbers of each part that a fit has a use for, by its name."""
        parts = {"train": self.train, "validation": self.validation, "holdout": self.holdout}
        return {**parts, "outliers": self.outliers} if len(self.outliers) else parts

    def sizes(self) -> dict[str, int]:
        """Rows of each part; of outliers that are not held out only where there are some."""
        sizes = {name: len(rows) for name, rows in self.parts().items()}
        return {**sizes, "aside": len(self.aside)} if len(self.aside) else sizes

    @property
    def n_outliers(self) -> int:
        """How many gross outliers were drawn apart."""
        return 0 if self.far is None else int(self.far.rows.sum())

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


def split_rows(
    table: Table,
    settings: Settings,
    context: Table | None = None,
    weight: Weights | None = None,
    *,
    near_copies: bool = True,
    outliers: bool = True,
) -> Split:
    """A seeded split in which copies of a row stay together.

    Arguments:
        table: The rows.
        settings: Shares and seed.
        context: What each row is conditioned on; None for nothing.
        weight: How much each counts, shape `(n,)`; None where all count the same.
        near_copies: Whether near copies are looked for; without, exact ones alone stay together.
        outliers: Whether gross outliers are drawn apart.
    """
    far = find_outliers(table, context, weight)
    if not outliers:
        far = replace(far, rows=np.zeros(len(table), dtype=np.bool_), columns=())
    if near_copies:
        copies = group_copies(table.values)
    else:
        exact = group_rows(table.values)
        copies = Groups(exact, int(exact.max()) + 1)
    group, is_far = copies.group, far.rows
    common = np.unique(group[~is_far]) if is_far.any() else None
    n_groups = copies.n_groups if common is None else len(common)
    runtime = Runtime(settings.seed)
    order = torch.randperm(n_groups, generator=runtime.stream("split")).numpy()
    rank = order[group if common is None else np.searchsorted(common, group).clip(max=n_groups - 1)]
    n_holdout = round(settings.holdout_fraction * n_groups)
    n_validation = max(1, round(settings.validation_fraction * n_groups))
    rows = np.argsort(rank, kind="stable")
    rows, apart = rows[~is_far[rows]], np.flatnonzero(is_far)
    ordered = rank[rows]
    generator = runtime.stream("split outliers")
    chance = torch.rand(copies.n_groups, generator=generator).numpy()[group[apart]]
    share = settings.holdout_fraction if n_holdout else 0.0
    held_out = chance < share
    judged = ~held_out & (chance < share + settings.validation_fraction)
    return Split(
        train=rows[ordered >= n_holdout + n_validation],
        validation=rows[(ordered >= n_holdout) & (ordered < n_holdout + n_validation)],
        holdout=np.concatenate([rows[ordered < n_holdout], apart[held_out]]),
        copies=copies if copies.near_groups else None,
        outliers=apart[judged],
        aside=apart[~held_out & ~judged],
        far=far,
    )


def split_of_run(
    table: Table,
    settings: Settings,
    description: dict[str, Any] | None,
    context: Table | None = None,
    weight: Weights | None = None,
) -> Split:
    """The split of a run by what is on record of it, None where it is new.

    A run of before near copies and outliers were looked for did not set them apart.
    """
    if description is None:
        return split_rows(table, settings, context, weight)
    told = description.get("split", {})
    found = {"near_copies": "near_copies" in told, "outliers": "drawn_apart" in told}
    return split_rows(table, settings, context, weight, **found)


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
    apart: dict[str, Any] = {}
    if copies is not None:
        apart["near_copies"] = {"groups": copies.near_groups, "rows": copies.near_rows}
    if split.n_outliers:
        apart["drawn_apart"] = split.n_outliers
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
        "split": {**split.sizes(), "rule": rule, **apart},
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

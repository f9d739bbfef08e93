r"""Which rows of a table do what: trained on, looked at by choices, looked at by nothing.

    rank = seeded permutation of the distinct rows;   holdout | validation | train by rank

Rows that are exact copies of each other stay on the same side, so that no held-out row was trained on. Gross
outliers (`jkoflow.data.outliers`) are drawn apart, to be judged on by the same chance as any row; no other
part of the fit looks at them, and all other rows have the parts that they would have without them. Source:
ours.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from jkoflow.config import Settings
from jkoflow.data import Table, Weights
from jkoflow.data.distinct import group_rows
from jkoflow.data.outliers import Outliers, find_outliers
from jkoflow.runtime import Runtime

__all__ = ["Split", "describe", "described_weights", "recognise_by", "split_rows"]


@dataclass(frozen=True)
class Split:
    """Row numbers of the table: trained on, looked at by choices, looked at by nothing.

    Arguments:
        train: What blocks are trained on.
        validation: What choices look at.
        holdout: What nothing looks at, gross outliers among them by chance.
        outliers: Gross outliers that belong to the rows that choices look at, but are only judged on.
        aside: The other gross outliers, which nothing looks at.
        far: What of the table lies far out.
    """

    train: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]
    holdout: npt.NDArray[np.int64]
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


def split_rows(
    table: Table, settings: Settings, context: Table | None = None, weight: Weights | None = None
) -> Split:
    """A seeded split in which exact copies of a row stay together.

    Arguments:
        table: The rows.
        settings: Seed and fractions.
        context: What each row is conditioned on; None for nothing.
        weight: How much each counts, shape `(n,)`; None where all count the same.
    """
    far = find_outliers(table, context, weight)
    group = group_rows(table.values)
    common = group if not far.rows.any() else np.unique(group[~far.rows])
    n_groups = int(group.max()) + 1 if common is group else len(common)
    runtime = Runtime(settings.seed)
    order = torch.randperm(n_groups, generator=runtime.stream("split")).numpy()
    rank = order[group if common is group else np.searchsorted(common, group).clip(max=n_groups - 1)]
    n_holdout = round(settings.holdout_fraction * n_groups)
    n_validation = max(1, round(settings.validation_fraction * n_groups))
    rows = np.argsort(rank, kind="stable")
    rows, apart = rows[~far.rows[rows]], np.flatnonzero(far.rows)
    ordered = rank[rows]
    generator = runtime.stream("split outliers")
    chance = torch.rand(int(group.max()) + 1, generator=generator).numpy()[group[apart]]
    share = settings.holdout_fraction if n_holdout else 0.0
    held_out = chance < share
    judged = ~held_out & (chance < share + settings.validation_fraction)
    return Split(
        train=rows[ordered >= n_holdout + n_validation],
        validation=rows[(ordered >= n_holdout) & (ordered < n_holdout + n_validation)],
        holdout=np.concatenate([rows[ordered < n_holdout], apart[held_out]]),
        outliers=apart[judged],
        aside=apart[~held_out & ~judged],
        far=far,
    )


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
        "split": {**split.sizes(), "rule": "seeded permutation of distinct rows; holdout, validation, train"},
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

r"""Which rows of a table do what: trained on, looked at by choices, looked at by nothing.

    rank = seeded permutation of the distinct rows;   holdout | validation | train by rank

Rows that are exact copies of each other stay on the same side, so that no held-out row was trained on.
Source: ours.
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
from jkoflow.runtime import Runtime

__all__ = ["Split", "describe", "described_weights", "recognise_by", "split_rows"]


@dataclass(frozen=True)
class Split:
    """Row numbers of the table: trained on, looked at by choices, looked at by nothing."""

    train: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]
    holdout: npt.NDArray[np.int64]

    def sizes(self) -> dict[str, int]:
        """Rows of each part."""
        return {"train": len(self.train), "validation": len(self.validation), "holdout": len(self.holdout)}


def split_rows(table: Table, settings: Settings) -> Split:
    """A seeded split in which exact copies of a row stay together."""
    group = group_rows(table.values)
    n_groups = int(group.max()) + 1
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

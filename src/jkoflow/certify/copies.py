"""Held-out rows that are copies of each other: one row of each group, and rows that are atoms.

Critics that learned from one copy know the others, and copies are no independent rows: a bound and its
interval are taken from one row of each group. Groups are those of `jkoflow.data.near_copies`. Source: ours.
"""

from __future__ import annotations

import numpy as np
import torch

from jkoflow.data.distinct import group_rows
from jkoflow.data.near_copies import group_copies
from jkoflow.particles import Particles

__all__ = ["distinct_rows", "share_of_atoms"]

_COPIES = 5
"""So many equal rows are an atom; fewer may be copies of a row that was recorded more than once."""


def distinct_rows(rows: Particles) -> Particles:
    """The first row of each group of exact and near copies, in their order."""
    values = _values(rows)
    if not len(values):
        return rows
    _, first = np.unique(group_copies(values).group, return_index=True)
    return rows.rows(torch.as_tensor(np.sort(first), device=rows.x.device))


def share_of_atoms(rows: Particles) -> float:
    """Share of the rows, at least one, that are equal to at least four others."""
    counts = np.bincount(group_rows(_values(rows)))
    return float(counts[counts >= _COPIES].sum() / len(rows))


def _values(rows: Particles) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Positions with their contexts, shape `(n, d + c)`."""
    both = rows.x if rows.context is None else torch.cat([rows.x, rows.context.to(rows.x)], dim=1)
    return np.asarray(both.double().cpu().numpy())

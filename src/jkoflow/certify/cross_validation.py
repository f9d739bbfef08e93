r"""Rows for the certificate of a small table: every row is judged by a model that was fitted without it.

    KL(p_0‖q^{(1)}), ..., KL(p_0‖q^{(5)}),    q^{(k)} fitted as the model was, on all rows but the k-th fifth

What is certified is the mean of the five, whose models had a fifth fewer rows than the one that is kept.
Rows that are copies of each other, or nearly, are left out together. Source: Stone (1974), J. R. Stat. Soc.
B 36, 111.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from jkoflow.certify.evidence import Evidence
from jkoflow.certify.rows import evidence_from
from jkoflow.config import Settings
from jkoflow.data import Table, Weights
from jkoflow.data.distinct import group_rows
from jkoflow.fitting import fit_table
from jkoflow.runtime import seed_stream

__all__ = ["MOST_ROWS", "cross_validated", "is_small"]

FOLDS = 5
"""A table is cut in so many parts."""

LEAST_ROWS = 100
"""A table with fewer rows has too few for a bracket, whoever judges them."""

MOST_ROWS = 1000
"""A larger table has enough rows to set some aside."""


def is_small(table: Table) -> bool:
    """Whether a table has too few rows to set enough aside, and enough to judge each in its turn."""
    return LEAST_ROWS <= len(table) <= MOST_ROWS


def cross_validated(
    evidence: Evidence,
    table: Table,
    context: Table | None,
    weight: Weights | None,
    settings: Settings,
    *,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Evidence:
    """The evidence with rows that were each left out of the fit of a model of their own.

    Arguments:
        evidence: Of the model alone, or with few rows.
        table: All rows of the fit.
        context: What they are conditioned on, or None.
        weight: How much each counts, or None.
        settings: Options of the fit.
        progress: Told before each of the fits: its number, from 1, and how many there are.

    Raises:
        InputError: A part of the table cannot be fitted.
        NumericalError: A block could not be trained.
    """
    own = replace(settings, holdout_fraction=0.0)
    parts = []
    for number, rows in enumerate(_parts(table, settings.seed)):
        progress(number + 1, FOLDS)
        others = np.setdiff1d(np.arange(len(table)), rows)
        fitted = fit_table(
            table.take(others),
            settings=own,
            context=None if context is None else context.take(others),
            weight=None if weight is None else weight[others],
        )
        parts.append(
            evidence_from(
                fitted.model,
                table.take(rows),
                None if context is None else context.take(rows),
                None if weight is None else weight[rows],
                stream=f"cross-validation {number}",
            )
        )
    return replace(evidence, cross_validated=tuple(parts))


def _parts(table: Table, seed: int) -> list[npt.NDArray[np.int64]]:
    """Row numbers in five parts; copies are of one part."""
    group = group_rows(table.values)
    order = torch.randperm(int(group.max()) + 1, generator=seed_stream(seed, "cross-validation"))
    rank = order.numpy()[group] % FOLDS
    return [np.flatnonzero(rank == part) for part in range(FOLDS)]

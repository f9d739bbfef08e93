r"""Rows for the certificate of a small table: every row is judged by a model that was fitted without it.

    KL(p_0‖q^{(1)}), ..., KL(p_0‖q^{(5)}),    q^{(k)} fitted as the model was, on all rows but the k-th fifth

What is certified is the mean of the five, whose models had a fifth fewer rows than the one that is kept.
Rows that are copies of each other, or nearly, are left out together. Source: Stone (1974), J. R. Stat. Soc.
B 36, 111.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from jkoflow.certify.evidence import LEAST_ROWS, Evidence
from jkoflow.certify.fit_rows import FittedTable
from jkoflow.certify.rows import evidence_from
from jkoflow.data import Table
from jkoflow.data.near_copies import group_copies
from jkoflow.errors import JKOFlowError
from jkoflow.fitting import fit_table
from jkoflow.runtime import seed_stream

__all__ = ["with_cross_validation"]

_FOLDS = 5
"""A table is cut in so many parts."""

_MOST_ROWS = 1000
"""A larger table has enough rows to set some aside: its models would take long to fit."""


def with_cross_validation(
    evidence: Evidence,
    fitted: FittedTable,
    *,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Evidence:
    """The evidence, and where a small table left it few rows, each row under a model fitted without it.

    Arguments:
        evidence: Of the model, with the rows that were set aside, if any.
        fitted: What it was fitted to.
        progress: Told before each of the fits: its number, from 1, and how many there are.
    """
    set_aside = 0 if evidence.held_out is None else len(evidence.held_out)
    if set_aside >= LEAST_ROWS or not LEAST_ROWS <= len(fitted.table) <= _MOST_ROWS:
        return evidence
    try:
        parts = tuple(_parts(fitted, progress))
    except JKOFlowError as error:  # a part may have a column that does not vary
        told = f"cross-validation was not possible: {error}"
        return replace(evidence, remarks=(*evidence.remarks, told))
    told = (
        f"too few rows were set aside: the bracket is the mean of {_FOLDS} models, each fitted as this one "
        f"was without a fifth of the {len(fitted.table):,} rows and judged on that fifth"
    )
    # the rows that the kept model was fitted to are those that the five are judged on
    return replace(evidence, cross_validated=parts, fitted_rows=None, remarks=(*evidence.remarks, told))


def _parts(fitted: FittedTable, progress: Callable[[int, int], None]) -> Iterator[Evidence]:
    own = fitted.settings.with_options(holdout_fraction=0.0)
    for number, rows in enumerate(_fifths(fitted.table, own.seed)):
        progress(number + 1, _FOLDS)
        table, context, weight = fitted.take(np.setdiff1d(np.arange(len(fitted.table)), rows))
        model = fit_table(table, settings=own, context=context, weight=weight).model
        yield evidence_from(model, *fitted.take(rows), stream=f"cross-validation {number}")


def _fifths(table: Table, seed: int) -> list[npt.NDArray[np.int64]]:
    """Row numbers in five parts; copies, and near copies, are of one part."""
    copies = group_copies(table.array)
    order = torch.randperm(copies.n_groups, generator=seed_stream(seed, "cross-validation"))
    rank = order.numpy()[copies.group] % _FOLDS
    return [np.flatnonzero(rank == part) for part in range(_FOLDS)]

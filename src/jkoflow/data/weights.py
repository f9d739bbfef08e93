r"""Weights of rows: how much each counts, and the rows that count at all.

    E[f] = sum_i w_i f(x_i) / sum_i w_i,      w_i >= 0

An integer weight is the row that many times; a row of weight 0 is as if it were not there. Source: the
definition of an expectation under the weighted empirical law.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from jkoflow.data.table import Table
from jkoflow.errors import InputError

__all__ = ["Weights", "checked_weight", "counted_rows", "mean_and_deviation"]

Weights: TypeAlias = npt.NDArray[np.float64]
"""Shape `(n,)`, finite, >= 0, not all 0."""


def checked_weight(weight: Any, table: Table, *, name: str = "sample_weight") -> Weights | None:
    """The weights as float64 `(n,)`, or None where none are given.

    Arguments:
        weight: Anything that NumPy takes for numbers, one for each row.
        table: The rows.
        name: What a message calls them.

    Raises:
        InputError: Not one number for each row, one that is negative or not finite, or none above 0.
    """
    if weight is None:
        return None
    try:
        numbers = np.asarray(weight, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name}: expected a number for each row, got {type(weight).__name__}") from None
    if numbers.shape != (len(table),):
        raise InputError(
            f"{name}: expected {len(table)} numbers, one for each row, got shape {numbers.shape}"
        )
    wrong = np.flatnonzero(~np.isfinite(numbers) | (numbers < 0))
    if len(wrong):
        row = int(wrong[0])
        raise InputError(f"{name}: expected finite numbers >= 0, got {numbers[row]} in row {row + 1}")
    if not bool((numbers > 0).any()):
        raise InputError(f"{name}: expected a number above 0, got 0 for every row")
    return numbers


def counted_rows(
    table: Table, context: Table | None, weight: Weights | None
) -> tuple[Table, Table | None, Weights | None]:
    """Table, context and weights of the rows whose weight is above 0; the hashes stay those of all rows."""
    if weight is None or bool((weight > 0).all()):
        return table, context, weight
    rows = np.flatnonzero(weight > 0)
    kept = replace(table.keep(rows), sha256=table.sha256)
    given = None if context is None else replace(context.keep(rows), sha256=context.sha256)
    return kept, given, weight[rows]


def mean_and_deviation(values: Weights, weight: Weights | None, *, step: float = 0.0) -> tuple[float, float]:
    """Weighted mean and standard deviation of values plus uniform noise on an interval of width `step`."""
    # centred at a value first: the squares of values far from zero would cancel
    shifted = values - values[0]
    mean = np.average(shifted, weights=weight)
    variance = float(np.average((shifted - mean) ** 2, weights=weight))
    return float(values[0] + mean), math.sqrt(variance + step * step / 12.0)

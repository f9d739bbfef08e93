"""Uniform dequantisation: a density for columns that were recorded on a grid.

    y = x + h (u - 1/2),   u ~ U[0, 1),   h the measuring step of the column.

The law of y has a density, p(y) = P(x = x_k) / h on the cell of width h around a recorded value x_k (cells of
different values do not overlap), where the law of x has none: on a grid the likelihood of a density model is
unbounded above. The cell is centred at the recorded value, so that y has the mean of x and the value is the
midpoint of its cell.

Source: Theis, van den Oord & Bethge (2016), arXiv 1511.01844, section 3.1. All rules below are relative: a
column and a multiple of it are judged alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["GridRules", "Measurement", "common_step", "finest_step", "measure"]

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GridRules:
    """When a column counts as recorded on a grid, and in which steps.

    Arguments:
        few_distinct: A column is tied where its distinct values are fewer than this share of its values.
        large_share: A column is tied where one value holds more than this share of the rows.
        most_cells: The range of a column has at most so many steps; a flow would not see a finer one.
        most_empty: The closest two values of a grid are at most so many steps apart, else their gap is the
            step. Columns that were centred and then rounded have a tiny common step, which says nothing of
            the measurement.
        precisions: Relative spacings of the number types that the values may have passed through, finest
            first: those of float64 and float32.
        most_variants: Distinct values are at most so many times as many as the cells that they lie in: more
            of them in a cell differ by more than their rounding.
        roundings: A value arrives within so many spacings, at the largest value, of the one recorded.
        peak_share: The summary tells of a most frequent value that holds more than this share of the rows
        peak_density: and whose density, times the standard deviation, is above this; at the mode of a
            normal law it is 0.4.
    """

    few_distinct: float = 0.05
    large_share: float = 0.01
    most_cells: int = 2**20
    most_empty: int = 10
    precisions: tuple[float, ...] = (float(np.finfo(np.float64).eps), float(np.finfo(np.float32).eps))
    most_variants: float = 4.0
    roundings: float = 4.0
    peak_share: float = 0.01
    peak_density: float = 10.0


@dataclass(frozen=True)
class Measurement:
    """How a column that is not continuous was recorded.

    Arguments:
        step: The measuring step h > 0, in the unit of the column.
        largest_share: The share of rows, in (0, 1], that hold the most frequent value.
    """

    step: float
    largest_share: float


def measure(values: Reals, *, integer: bool = False, rules: GridRules | None = None) -> Measurement | None:
    """Return how a column was recorded, or None where it is continuous.

    A column is dequantised when it is of an integer type, when its values lie on a grid, or when it is tied:
    fewer than 5 % of the values are distinct, or one value holds more than 1 % of the rows. The step is the
    greatest common step of the values where there is one to float precision, else the smallest gap.

    Arguments:
        values: Shape (n,), finite, not all equal. Exact duplicates of whole rows are better left out.
        integer: True where the type of the column says that it counts.
        rules: When a column counts as recorded on a grid; `GridRules()` if None, which has the shares above.
    """
    rules = rules or GridRules()
    distinct, counts = np.unique(values, return_counts=True)
    largest = int(counts.max())
    share = largest / len(values)
    step = common_step(distinct, integer=integer, rules=rules)
    tied = len(distinct) < rules.few_distinct * len(values) or (largest > 1 and share > rules.large_share)
    if step is None and tied:
        step = finest_step(distinct, rules=rules)
    return None if step is None else Measurement(step, share)


def common_step(distinct: Reals, *, integer: bool = False, rules: GridRules | None = None) -> float | None:
    """Return the greatest h with all differences in hZ, or None where there is none to float precision.

    Arguments:
        distinct: Sorted distinct values, shape (m,), m >= 2.
        integer: True for exact integers, whose step may be any integer.
        rules: When values lie on a grid; `GridRules()` if None.
    """
    rules = rules or GridRules()
    if integer and np.abs(distinct).max() < 2**53:
        return float(np.gcd.reduce(np.diff(distinct.astype(np.int64))))
    for precision in rules.precisions:
        rounding = rules.roundings * precision * float(np.abs(distinct).max())
        step = _common_step(distinct, rounding, rules)
        if step is not None:
            return step
    return None


def _common_step(distinct: Reals, rounding: float, rules: GridRules) -> float | None:
    """Euclid's algorithm on all gaps at once; remainders far below the smallest step are rounding."""
    gaps = np.diff(distinct)
    gaps = gaps[gaps > rounding]
    step = float(gaps.min()) if gaps.size else 0.0
    finest = float(distinct[-1] - distinct[0]) / rules.most_cells
    smallest = max(16.0 * rounding, finest, step / (rules.most_empty + 0.5))
    while step >= smallest:
        step = _sharpen(gaps, step, smallest / 4.0)
        remainders = _remainders(gaps, step)
        remainders = remainders[remainders > smallest / 4.0]
        if not remainders.size:
            return _refine(distinct, step, rounding, rules)
        step = float(remainders.min())
    return None


def _remainders(gaps: Reals, step: float) -> Reals:
    return np.abs(gaps - np.rint(gaps / step) * step)


def _sharpen(gaps: Reals, step: float, tolerance: float) -> float:
    """The step averaged over short gaps: the error of a single one would be multiplied in a long gap."""
    short = gaps[(gaps < 32.0 * step) & (_remainders(gaps, step) <= tolerance)]
    return float(short.sum() / np.rint(short / step).sum()) if short.size else step


def _refine(distinct: Reals, step: float, rounding: float, rules: GridRules) -> float | None:
    """The step that fits the whole range, if every value is then within rounding of the grid.

    What is rounding beside the largest value may be all that there is of the others: a step is that of most
    values where they lie in as many cells as they are, but for a few variants of each.
    """
    offsets = distinct - distinct[0]
    step = float(offsets[-1] / np.rint(np.diff(distinct) / step).sum())
    if float(_remainders(offsets, step).max()) > rounding:
        return None
    cells = 1 + int(np.count_nonzero(np.diff(np.rint(offsets / step))))
    return step if len(distinct) <= rules.most_variants * cells else None


def finest_step(distinct: Reals, *, rules: GridRules | None = None) -> float:
    """The smallest difference between neighbours that a flow could see.

    Arguments:
        distinct: Values of the column, shape `(n,)`, not all equal.
        rules: How fine a step may be; `GridRules()` if None.
    """
    rules = rules or GridRules()
    distinct = np.unique(distinct)
    gaps = np.diff(distinct)
    seen = gaps[gaps > float(distinct[-1] - distinct[0]) / rules.most_cells]
    return float(seen.min() if seen.size else gaps.max())

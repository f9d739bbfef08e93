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

__all__ = ["Measurement", "common_step", "measure"]

Reals = npt.NDArray[np.float64]

_FEW_DISTINCT = 0.05
_LARGE_SHARE = 0.01

_MAX_CELLS = 2**20
"""A step of less than this part of the range is not told from none: a flow would not see it."""

_MAX_EMPTY = 10
"""Cells from one value to the next, at the closest, on what still counts as a grid; else the gap is the step.

Columns that were centred and then rounded have a tiny common step, and it says nothing of the measurement.
"""

_PRECISIONS = (float(np.finfo(np.float64).eps), float(np.finfo(np.float32).eps))
_ROUNDINGS = 4.0
"""Roundings, in units of the largest value's last place, between a value as recorded and as it arrives."""


@dataclass(frozen=True)
class Measurement:
    """How a column that is not continuous was recorded.

    Arguments:
        step: The measuring step h > 0, in the unit of the column.
        largest_share: The share of rows, in (0, 1], that hold the most frequent value.
    """

    step: float
    largest_share: float


def measure(values: Reals, *, integer: bool = False) -> Measurement | None:
    """Return how a column was recorded, or None where it is continuous.

    A column is dequantised when it is of an integer type, when its values lie on a grid, or when it is tied:
    fewer than 5 % of the values are distinct, or one value holds more than 1 % of the rows. The step is the
    greatest common step of the values where there is one to float precision, else the smallest gap.

    Arguments:
        values: Shape (n,), finite, not all equal. Exact duplicates of whole rows are better left out.
        integer: True where the type of the column says that it counts.
    """
    distinct, counts = np.unique(values, return_counts=True)
    largest = int(counts.max())
    share = largest / len(values)
    step = common_step(distinct, integer=integer)
    tied = len(distinct) < _FEW_DISTINCT * len(values) or (largest > 1 and share > _LARGE_SHARE)
    if step is None and tied:
        step = _smallest_gap(distinct)
    return None if step is None else Measurement(step, share)


def common_step(distinct: Reals, *, integer: bool = False) -> float | None:
    """Return the greatest h with all differences in hZ, or None where there is none to float precision.

    Arguments:
        distinct: Sorted distinct values, shape (m,), m >= 2.
        integer: True for exact integers, whose step may be any integer.
    """
    if integer and np.abs(distinct).max() < 2**53:
        return float(np.gcd.reduce(np.diff(distinct.astype(np.int64))))
    for precision in _PRECISIONS:
        step = _common_step(distinct, _ROUNDINGS * precision * float(np.abs(distinct).max()))
        if step is not None:
            return step
    return None


def _common_step(distinct: Reals, rounding: float) -> float | None:
    """Euclid's algorithm on all gaps at once; remainders far below the smallest step are rounding."""
    gaps = np.diff(distinct)
    gaps = gaps[gaps > rounding]
    step = float(gaps.min()) if gaps.size else 0.0
    smallest = max(16.0 * rounding, float(distinct[-1] - distinct[0]) / _MAX_CELLS, step / (_MAX_EMPTY + 0.5))
    while step >= smallest:
        step = _sharpen(gaps, step, smallest / 4.0)
        remainders = _remainders(gaps, step)
        remainders = remainders[remainders > smallest / 4.0]
        if not remainders.size:
            return _refine(distinct, step, rounding)
        step = float(remainders.min())
    return None


def _remainders(gaps: Reals, step: float) -> Reals:
    return np.abs(gaps - np.rint(gaps / step) * step)


def _sharpen(gaps: Reals, step: float, tolerance: float) -> float:
    """The step averaged over short gaps: the error of a single one would be multiplied in a long gap."""
    short = gaps[(gaps < 32.0 * step) & (_remainders(gaps, step) <= tolerance)]
    return float(short.sum() / np.rint(short / step).sum()) if short.size else step


def _refine(distinct: Reals, step: float, rounding: float) -> float | None:
    """The step that fits the whole range, if every value is then within rounding of the grid."""
    offsets = distinct - distinct[0]
    step = float(offsets[-1] / np.rint(np.diff(distinct) / step).sum())
    return step if float(_remainders(offsets, step).max()) <= rounding else None


def _smallest_gap(distinct: Reals) -> float:
    """The smallest difference between neighbours that a flow could see."""
    gaps = np.diff(distinct)
    seen = gaps[gaps > float(distinct[-1] - distinct[0]) / _MAX_CELLS]
    return float(seen.min() if seen.size else gaps.max())

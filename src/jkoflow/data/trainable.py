"""Which tables a density can be fitted to: enough distinct rows, and columns that vary in float64.

    rows: at least 10 distinct ones        columns: 0 < max - min, whose square and its inverse are finite

Source: IEEE 754, float64 holds magnitudes from 2e-308 to 2e308.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from jkoflow.data.distinct import repeated_rows
from jkoflow.data.shared_rows import Rows
from jkoflow.data.table import Table, count_of, join_names
from jkoflow.errors import InputError

__all__ = ["check_ranges", "check_trainable", "column_ranges"]

Reals = npt.NDArray[np.float64]


def check_trainable(table: Table, *, least_distinct: int = 10) -> npt.NDArray[np.bool_]:
    """Refuse a table that no density can be fitted to.

    Arguments:
        table: The whole table.
        least_distinct: Fewest distinct rows; fewer say nothing of a density.

    Returns:
        A mask, shape (n,), of the rows that repeat an earlier one exactly; they are accepted.

    Raises:
        InputError: One row, too few distinct rows, a column that is constant to float precision, or
            one whose range is beyond what float64 can square.
    """
    if len(table) < 2:
        raise InputError(f"{table.label}: expected at least {least_distinct} distinct rows, got one row")
    ranges = column_ranges(table.values)
    constant = [name for name, width in zip(table.columns, ranges, strict=True) if width == 0.0]
    if constant:
        raise InputError(
            f"{table.label}: {count_of(constant, 'constant column')}: {join_names(constant)}; "
            "a constant has no density, leave it out"
        )
    check_ranges(table)
    repeated = repeated_rows(table.values)
    distinct = int((~repeated).sum())
    if distinct < least_distinct:
        raise InputError(
            f"{table.label}: expected at least {least_distinct} distinct rows, got {distinct} "
            f"among {len(table)}; add rows"
        )
    return repeated


def check_ranges(table: Table, *, smallest: float = 1e-150, largest: float = 1e150) -> None:
    """Refuse, as an `InputError`, a column that is not constant and whose range float64 cannot square.

    Arguments:
        table: The table.
        smallest: Smallest range max - min that is accepted, in the unit of the column.
        largest: Largest one.
    """
    for name, width in zip(table.columns, column_ranges(table.values), strict=True):
        if width and not smallest <= width <= largest:
            raise InputError(
                f"{table.label}: column {name} has a range of {width:.3g}, expected "
                f"{smallest:g} to {largest:g}; change its unit"
            )


def column_ranges(values: Rows) -> Reals:
    """Return max - min of every column, shape (d,); 0 where it is within rounding of the largest value."""
    with np.errstate(over="ignore"):
        low, high = values.min(axis=0), values.max(axis=0)
        ranges = np.asarray(high - low, dtype=np.float64)
        rounding = 16.0 * np.finfo(np.float64).eps * np.maximum(high, -low)
    return np.where(ranges <= rounding, 0.0, ranges)

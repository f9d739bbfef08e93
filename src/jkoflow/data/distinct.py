"""Which rows of a table are exact copies of each other, without a copy of the table.

    group_i = #{distinct rows that are lexicographically smaller than row i}

Sorted by the first column, then each later column only among rows that are still tied: a few arrays of n
numbers, whatever d is, and one pass where the columns are continuous. The numbers are those of
`numpy.unique(values, axis=0, return_inverse=True)`; -0 equals 0. Source: radix sort, most significant first.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from jkoflow.data.shared_rows import Rows

__all__ = ["group_rows", "repeated_rows"]


def group_rows(values: Rows) -> npt.NDArray[np.int64]:
    """The number of each row among the sorted distinct rows, shape (n,).

    Arguments:
        values: Shape (n, d), n >= 1, d >= 1, without NaN.
    """
    order = np.argsort(values[:, 0], kind="stable")
    first = _first_of_run(values[order, 0])
    for place in range(1, values.shape[1]):
        tied = _tied(first)
        if not len(tied):
            break
        run = np.cumsum(first[tied])
        rows = order[tied]
        column = values[rows, place]
        again = np.lexsort((column, run))
        order[tied] = rows[again]
        first[tied] |= _first_of_run(column[again])
    group = np.empty(len(order), dtype=np.int64)
    group[order] = np.cumsum(first) - 1
    return group


def repeated_rows(values: Rows) -> npt.NDArray[np.bool_]:
    """A mask, shape (n,), of the rows that repeat an earlier one exactly."""
    group = group_rows(values)
    n_rows = len(group)
    earliest = np.empty(int(group.max()) + 1, dtype=np.int64)
    earliest[group[::-1]] = np.arange(n_rows)[::-1]  # of several values for one place the last stays
    return np.asarray(earliest[group] != np.arange(n_rows), dtype=np.bool_)


def _first_of_run(ordered: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    first = np.ones(len(ordered), dtype=np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    return first


def _tied(first: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Places in the order whose run has more than one row."""
    alone = first.copy()
    alone[:-1] &= first[1:]
    return np.flatnonzero(~alone)

r"""Whether a column's values can be told apart once they are standardised: in float32, in float64.

    share = max_f #{distinct x: round((x - m)/s) = f} / #{distinct x},    f a number of the float type

Floats are relative to zero, and a standardised column has its mean there: a spike elsewhere, far narrower
than the column is wide, comes to few numbers or to one. A density there would be that of a point mass, as
large as one likes. Source: IEEE 754; the limits are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jkoflow.data.columns.base import Column
from jkoflow.data.table import Table, join_names

__all__ = ["ResolutionRules", "crowded_columns", "crowding", "crowding_note", "is_crowded"]

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ResolutionRules:
    """When values count as not told apart.

    Arguments:
        share: One number stands for more than this share of the distinct values,
        fewest: and for so many of them at least. Two may meet by chance.
    """

    share: float = 0.005
    fewest: int = 3


def crowding(values: Reals, column: Column, dtype: npt.DTypeLike) -> tuple[float, int]:
    """The most distinct values that one number stands for, as a share of the distinct values and as a count.

    Arguments:
        values: Of the column, data units, shape `(n,)`, n >= 1.
        column: Its map, location and scale.
        dtype: Float type of the standardised values.
    """
    distinct = np.unique(values)
    reals = (column.to_reals(distinct) - column.location) / column.scale
    with np.errstate(over="ignore"):  # a row beyond the range of the dtype is infinite there
        _, counts = np.unique(reals.astype(dtype), return_counts=True)
    most = int(counts.max())
    return most / len(distinct), most


def is_crowded(
    values: Reals, column: Column, dtype: npt.DTypeLike, *, rules: ResolutionRules | None = None
) -> bool:
    """Whether the column's values are not told apart in `dtype`; arguments as of `crowding`."""
    rules = rules or ResolutionRules()
    share, count = crowding(values, column, dtype)
    return share > rules.share and count >= rules.fewest


def crowded_columns(table: Table, columns: Sequence[Column], dtype: npt.DTypeLike) -> tuple[str, ...]:
    """Names of the columns whose values are not told apart in `dtype`; noise spreads those on a grid."""
    return tuple(
        column.name
        for place, column in enumerate(columns)
        if not column.is_dequantised and is_crowded(table.values[:, place], column, dtype)
    )


def crowding_note(names: Sequence[str]) -> str:
    """What the summary says where a fit computes in float64 instead of float32 for these columns."""
    return (
        f"computed in float64, not float32, which cannot tell values of {join_names(names)} apart beside "
        "the range of all: a logarithm of the column may serve better"
    )

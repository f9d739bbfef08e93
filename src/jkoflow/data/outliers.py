r"""Gross outliers: the few rows that lie so far out that they would move what is learned of all others.

    a_ij = |x_ij - median_j|,    s_j = 1.4826 median_i a_ij,    q_j = the distance that few rows exceed
    row i is an outlier:   a_ij > 100 s_j  and  a_ij > 10 q_j  in some column j,   and few rows are farther

One row at 10^3 standard deviations makes the standard deviation of a thousand rows 30 times as large, and
its square is most of every sum of squares that a fit descends: it costs the likelihood of all others. A
median and a quantile do not move for it. Both conditions are needed: a small cluster far off has q of its own
distance, a column whose values are half equal has a small s. Few is one row, or one in 200.

Source: the median absolute deviation as a scale, Hampel (1974), J. Am. Stat. Assoc. 69, 383; the limits are
ours: a Student law with 3 degrees of freedom passes the first one in 1 of 700,000 values, a lognormal law of
unit shape in 1 of 300,000.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jkoflow.data.table import Table, join_names
from jkoflow.data.weights import Weights

__all__ = ["OutlierRules", "Outliers", "find_outliers"]

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OutlierRules:
    """When a row is a gross outlier.

    Arguments:
        scales: It lies so many robust standard deviations s from the median.
        beyond_few: It lies so many times as far as the distance q that few rows exceed.
        beyond_few_heavy: The tails of a table are heavy where a row lies so many times as far as q, and
            `scales` robust standard deviations.
        few: The share of the rows, or of their weights, that are few; one row is at any rate.
        normal_deviation: Standard deviation over median absolute deviation, of a normal law.
    """

    scales: float = 100.0
    beyond_few: float = 10.0
    beyond_few_heavy: float = 3.0
    few: float = 0.005
    normal_deviation: float = 1.4826


@dataclass(frozen=True)
class Outliers:
    """What of a table lies far out.

    Arguments:
        rows: A mask of the gross outliers, shape `(n,)`.
        heavy: Whether the table's tails reach so far that rows of its law may lie anywhere.
        columns: Names of the columns in which they lie far out.
    """

    rows: npt.NDArray[np.bool_]
    heavy: bool
    columns: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """The line of the summary, where there are any."""
        count = int(self.rows.sum())
        if not count:
            return ()
        lie = "lies" if count == 1 else "lie"
        return (
            f"{count} of {len(self.rows)} rows {lie} more than a hundred times as far out as most rows, in "
            f"{join_names(self.columns)}: no choice and no block has seen them; where they are mistakes, "
            "mend or leave them out",
        )


def find_outliers(
    table: Table,
    context: Table | None = None,
    weight: Weights | None = None,
    *,
    rules: OutlierRules | None = None,
) -> Outliers:
    """The gross outliers of a table, in its columns or in those that it is conditioned on.

    Arguments:
        table: The rows.
        context: What each is conditioned on, one row for each; None for nothing.
        weight: How much each counts, shape `(n,)`; None where all count the same.
        rules: When a row is one; `OutlierRules()` if None.
    """
    rules = rules or OutlierRules()
    score, heavy, beyond = np.zeros(len(table)), False, dict[str, npt.NDArray[np.bool_]]()
    few = _total(weight, len(table)) * max(rules.few, 1.0 / len(table))
    for part in (table, context):
        if part is None or len(part) != len(table):  # a context of another length is refused elsewhere
            continue
        for place in range(part.dim):
            distance, scale, common = _distances(part.values[:, place], weight, few)
            robust = rules.scales * rules.normal_deviation * scale
            limit = max(robust, rules.beyond_few * common)
            if limit > 0.0:
                np.maximum(score, distance / limit, out=score)
                if bool((out := distance > limit).any()):
                    beyond[part.columns[place]] = out
                heavy = heavy or bool(distance.max() > max(robust, rules.beyond_few_heavy * common))
    if not beyond:
        return Outliers(np.zeros(len(table), dtype=np.bool_), heavy)
    # of more than a few the farthest: in many columns of heavy tails every row would be one somewhere
    rows = score > max(1.0, _exceeded_by(score, weight, few))
    columns = tuple(name for name, out in beyond.items() if bool((out & rows).any()))
    return Outliers(rows, True, columns)


def _distances(values: Reals, weight: Weights | None, few: float) -> tuple[Reals, float, float]:
    """Distances from the median, their median, and the distance that only few rows exceed.

    Where more than half of the values are equal the second is the median of the distances that are not 0.
    """
    half = _total(weight, len(values)) / 2
    with np.errstate(over="ignore"):  # a range beyond float64 is refused elsewhere
        distance = np.abs(values - _exceeded_by(values, weight, half))
    scale, common = _exceeded_by(distance, weight, half), _exceeded_by(distance, weight, few)
    if scale == 0.0 and bool((off := distance > 0.0).any()):
        given = None if weight is None else weight[off]
        scale = _exceeded_by(distance[off], given, _total(given, int(off.sum())) / 2)
    return distance, scale, common


def _total(weight: Weights | None, n_rows: int) -> float:
    return float(n_rows) if weight is None else float(weight.sum())


def _exceeded_by(values: Reals, weight: Weights | None, most: float) -> float:
    """The smallest of the values above which no more weight than `most` lies, which is less than all."""
    if weight is None:
        place = len(values) - 1 - int(most)
        return float(np.partition(values, place)[place])
    order = np.argsort(-values, kind="stable")
    above = np.cumsum(weight[order])
    place = int(np.searchsorted(above, most, side="right"))
    return float(values[order[min(place, len(values) - 1)]])

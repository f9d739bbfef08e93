r"""Columns that others determine exactly: a table with such columns has no density in all of its columns.

    x_c = a + sum_j b_j x_j  to rounding,     rms of the residual <= sqrt(sum_j b_j^2 r_j^2),   b_c = 1

r_j is what rounding alone leaves in column j: the spacing of its float type at its largest value, or that of
a fine measuring step, h / sqrt(12). Columns that are correlated, however strongly, but carry noise of their
own above that are not named. Candidates are the small diagonal entries of a QR factorisation of standardised
rows; each relation is then fitted by least squares and held against more rows. Source: Golub & Van Loan
(2013), Matrix Computations, section 5.4, for rank by QR; the bound by rounding is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jkoflow.data.columns import Column
from jkoflow.data.distinct import repeated_rows
from jkoflow.data.table import Table, gathered, join_names

__all__ = ["DependenceRules", "Relation", "dependence_notes", "dependent_columns"]

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DependenceRules:
    """When a column counts as determined by others.

    Arguments:
        fewest_rows: Rows that candidates are looked for in, evenly spaced over the table,
        rows_per_column: or so many for each column, where that is more.
        most_rows: Rows that a relation is held against at most.
        candidate: Residual, in standard deviations, below which a column becomes a candidate.
        finest_step: A measuring step counts as rounding up to this share of the standard deviation. A coarser
            one is a count or a category, of which a relation must be exact.
        step_slack: How far the residual may exceed the root mean square that rounding to a step leaves.
        float_slack: Spacings at the largest value that arithmetic on floats may have left.
        smallest_share: A coefficient counts where its column moves the sum by more than this many standard
            deviations of the dependent column.
        support: Fewest rows in which each column of a relation differs from its most frequent value, so that
            two columns that are zero but for one row are not called proportional.
    """

    fewest_rows: int = 2048
    rows_per_column: int = 4
    most_rows: int = 2**16
    candidate: float = 1e-5
    finest_step: float = 0.01
    step_slack: float = 1.25
    float_slack: float = 2.0
    smallest_share: float = 1e-6
    support: int = 8


@dataclass(frozen=True)
class Relation:
    """One column as an affine function of others, data units.

    Arguments:
        column: The name of the column that is determined.
        constant: a.
        terms: Names and coefficients b_j of the columns that determine it.
    """

    column: str
    constant: float
    terms: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        """Such as `clay = 1 - sand - silt`."""
        text = "" if self.constant == 0.0 else f"{self.constant:.6g}"
        for name, coefficient in self.terms[:6]:
            size = "" if abs(coefficient) == 1.0 else f"{abs(coefficient):.6g}*"
            between, first = (" - ", "-") if coefficient < 0 else (" + ", "")
            text += f"{between if text else first}{size}{join_names([name])}"
        more = len(self.terms) - 6
        return f"{join_names([self.column])} = {text}" + (f" + {more} more terms" if more > 0 else "")


def dependent_columns(
    table: Table, columns: Sequence[Column], *, rules: DependenceRules | None = None
) -> tuple[Relation, ...]:
    """The columns that those before them determine to rounding, each with its relation; mostly none.

    Arguments:
        table: The rows.
        columns: What `Schema.fit` found of them, in the order of the table.
        rules: When a column counts as determined.
    """
    rules = rules or DependenceRules()
    z, _ = _standardised(table, max(rules.fewest_rows, rules.rows_per_column * table.dim))
    n_distinct = int((~repeated_rows(z)).sum())
    if table.dim < 2 or n_distinct < 2 * (table.dim + 1):
        return ()
    root = np.sqrt(len(z))
    left = np.abs(np.diagonal(np.linalg.qr(z, mode="r"))) / root
    steps = [getattr(column, "step", 0.0) / column.scale for column in columns]
    fine = max((step for step in steps if step <= rules.finest_step), default=0.0)
    small = max(rules.candidate, float(np.sqrt(table.dim)) * fine)
    waiting = [int(place) for place in np.flatnonzero(left <= small)]
    free = [place for place in range(table.dim) if place not in set(waiting)]
    moved = 1
    while waiting:  # a candidate that is only correlated joins the free ones, which may determine the next
        solved = _least_squares(z[:, free], z[:, waiting])
        found = _verified(table, columns, free, waiting, solved, rules)
        failed = [place for place, relation in zip(waiting, found, strict=True) if relation is None]
        if not failed:
            return tuple(relation for relation in found if relation is not None)
        free = sorted([*free, *failed[:moved]])
        waiting = [place for place in waiting if place not in set(failed[:moved])]
        moved *= 2
    return ()


def dependence_notes(relations: Sequence[Relation]) -> tuple[str, ...]:
    """What summary and certificate say of them, in one line; none where there are none."""
    if not relations:
        return ()
    told = "; ".join(str(relation) for relation in relations[:4])
    more = f"; and {len(relations) - 4} more" if len(relations) > 4 else ""
    names = join_names([relation.column for relation in relations])
    return (
        f"linearly dependent columns: {told}{more} (to rounding); such a table has no density in all its "
        f"columns, and samples will not keep the relation: drop {names} and compute it from the others",
    )


def _standardised(table: Table, most: int) -> tuple[Reals, Reals]:
    """Evenly spaced rows at mean 0 and standard deviation 1 among themselves, and as they are."""
    places = np.unique(np.linspace(0, len(table) - 1, min(most, len(table))).astype(np.int64))
    rows = gathered(table.values, places)
    z = rows - rows[0]  # the mean of numbers far from 0 is rounded
    z = z - z.mean(axis=0)
    deviation = z.std(axis=0)
    return z / np.where(deviation > 0, deviation, 1.0), rows


def _verified(
    table: Table,
    columns: Sequence[Column],
    free: list[int],
    waiting: list[int],
    solved: Reals,
    rules: DependenceRules,
) -> list[Relation | None]:
    """The relation of each candidate where more rows agree with it; None where they do not."""
    z, rows = _standardised(table, rules.most_rows)
    spread = (rows - rows[0]).std(axis=0)
    rounding = _rounding(rows, columns, rules)
    common = _rows_off_the_mode(rows)
    found: list[Relation | None] = []
    for number, place in enumerate(waiting):
        share = solved[:, number]
        used = [k for k in range(len(free)) if abs(share[k]) > rules.smallest_share]
        if not used or not spread[place] > 0:
            found.append(None)
            continue
        places = [free[k] for k in used]
        # fitted again to the columns that count: what the others had is rounding
        share = _least_squares(z[:, places], z[:, place])
        coefficients = share * spread[place] / spread[places]
        residual = float(np.sqrt(np.mean((z[:, place] - z[:, places] @ share) ** 2))) * spread[place]
        allowed = np.hypot(rounding[place], np.sqrt(np.sum((coefficients * rounding[places]) ** 2)))
        supported = common[[place, *places]].min() >= max(rules.support, 2 * len(places))
        holds = residual <= allowed and supported
        found.append(_relation(table, rows, place, places, coefficients, allowed) if holds else None)
    return found


def _least_squares(of: Reals, to: Reals) -> Reals:
    """The b of smallest |of @ b - to|, shape `(k,)` or `(k, m)`."""
    return np.asarray(np.linalg.lstsq(of, to, rcond=None)[0], dtype=np.float64)


def _rounding(rows: Reals, columns: Sequence[Column], rules: DependenceRules) -> Reals:
    """What rounding alone leaves in each column, root mean square, data units."""
    largest = np.abs(rows).max(axis=0)
    rounding = np.empty(len(columns))
    for place, column in enumerate(columns):
        with np.errstate(over="ignore", under="ignore"):
            single = np.array_equal(rows[:, place].astype(np.float32).astype(np.float64), rows[:, place])
        step = getattr(column, "step", 0.0)
        spacing = float(np.finfo(np.float32 if single else np.float64).eps)
        rounding[place] = rules.float_slack * spacing * largest[place]
        if 0.0 < step <= rules.finest_step * column.scale:
            rounding[place] = rules.step_slack * step / np.sqrt(12.0)
    return rounding


def _rows_off_the_mode(rows: Reals) -> npt.NDArray[np.int64]:
    """In how many rows each column is not at its most frequent value, shape `(d,)`."""
    most = [int(np.unique(column, return_counts=True)[1].max()) for column in rows.T]
    return len(rows) - np.array(most, dtype=np.int64)


def _relation(
    table: Table, rows: Reals, place: int, places: list[int], coefficients: Reals, allowed: float
) -> Relation:
    """With whole coefficients, and no constant, where those are as good."""
    whole = np.rint(coefficients)
    left = rows[:, place] - rows[:, places] @ whole
    if not (whole.all() and float(left.std()) <= allowed):
        whole = np.array([float(f"{value:.6g}") for value in coefficients])
        left = rows[:, place] - rows[:, places] @ coefficients
    constant, size = float(left.mean()), float(np.abs(rows[:, place]).max())
    digits = 6 if abs(constant) > 1e-6 * size else 0
    tolerance = max(allowed, 1e-6 * size)
    short = float(f"{constant:.{digits}g}") if digits else 0.0
    if abs(constant - round(constant)) <= tolerance:
        short = float(round(constant))
    terms = tuple((table.columns[j], float(b)) for j, b in zip(places, whole, strict=True))
    return Relation(table.columns[place], short, terms)

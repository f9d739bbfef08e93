r"""Rows that are nearly copies of each other: closer than independent rows of a law with a density ever are.

    r_k = d_k / d_{k+1},    P(r_k < e) = e^{k D} for rows of a density in D dimensions,    copied: r_k <= e

d_1 <= d_2 <= ... are the distances of a row to its nearest others. A row whose k copies differ by jitter has
its next neighbour far outside, so that one ratio is tiny; among independent rows that is so for a share e at
most, on a line. Columns are first made level: x -> F(x) with F piecewise linear through a few quantiles, so
that heavy tails, spikes and different units look alike, while jitter stays jitter. What columns that repeat
values make of independent rows is seen where each column is shuffled by itself. Groups are then the connected
rows within the radius between jitter and neighbours.

Source: order statistics of volumes, (V_k / V_{k+1}) ~ Beta(k, 1), for Poisson points (Moran 1947); the rules
are ours, and are relative: a table and a multiple of it are judged alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from jkoflow.data.distinct import group_rows
from jkoflow.data.shared_rows import Rows, SharedRows

__all__ = ["Groups", "NearCopyRules", "group_copies", "near_copies_of"]

Reals = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class NearCopyRules:
    """When rows count as near copies.

    Arguments:
        ratio: e, the largest d_k / d_{k+1} at which a row counts as copied.
        neighbours: Distances that are looked at for each row: larger groups of copies are not seen.
        rows: Fewest and most rows, evenly spaced, whose neighbours are looked for among all rows.
        differences: Rows × rows × columns to compare in that, which limits the rows in large tables.
        share: A table has near copies where more than this share of those rows is copied,
        fewest: and so many of them at least,
        beyond_chance: and so many times as many as with each column shuffled,
        fewest_groups: and in so many groups at least. A few tight clusters are a law of its own.
        knots: Quantiles that the map of a column to its level goes through; fewer than there are groups.
        knot_rows: Rows, evenly spaced, that the quantiles are of at most.
    """

    ratio: float = 1e-3
    neighbours: int = 64
    rows: tuple[int, int] = (64, 1024)
    differences: float = 2.5e8
    share: float = 0.03
    fewest: int = 8
    beyond_chance: float = 3.0
    fewest_groups: int = 20
    knots: int = 16
    knot_rows: int = 2**16


class Groups(NamedTuple):
    """Rows that belong together.

    Arguments:
        group: The number of each row's group, shape `(n,)`: exact copies are of one, near copies too.
        n_groups: How many groups there are.
        near_groups: How many of them have rows that differ; 0 in a table without near copies.
        near_rows: How many rows are in these.
    """

    group: Numbers
    n_groups: int
    near_groups: int = 0
    near_rows: int = 0


class _Copied(NamedTuple):
    """Of the rows that were looked at: which are copied, and a radius between copies and other rows."""

    is_copied: npt.NDArray[np.bool_]
    radius: float


def group_copies(values: Rows, *, rules: NearCopyRules | None = None) -> Groups:
    """The groups of exact and near copies; those of exact copies alone in a table without near ones.

    Deterministic. Where there are near copies, so many times that chance does not explain it, the rows within
    one radius of each other, or of a row in between, are a group.

    Arguments:
        values: Shape `(n, d)`, n >= 1, d >= 1, finite.
        rules: When rows count as near copies.
    """
    rules = rules or NearCopyRules()
    exact = group_rows(values)
    n_exact = int(exact.max()) + 1
    alone = Groups(exact, n_exact)
    if n_exact < 2 * rules.fewest_groups:
        return alone
    first = np.empty(n_exact, dtype=np.int64)
    first[exact[::-1]] = np.arange(len(exact))[::-1]  # of several values for one place the last stays
    level = _Levels.of(values, rules)
    looked_at = first[_spaced(n_exact, _n_looked_at(n_exact, values.shape[1], rules))]
    found = _copied(level(values[looked_at]), _Rows(values, first, level), rules, itself=1)
    count = int(found.is_copied.sum())
    if count < max(rules.fewest, rules.share * len(looked_at)):
        return alone
    z = level(values[first])
    if count < rules.beyond_chance * _by_chance(z, len(looked_at), rules):
        return alone
    label = _connected(z, found.radius)
    sizes = np.bincount(label)
    near = sizes > 1
    if int(near.sum()) < rules.fewest_groups:
        return alone
    group = label[exact]
    near_rows = int(np.bincount(group)[near].sum())
    return Groups(group, len(sizes), int(near.sum()), near_rows)


def near_copies_of(known: Reals, rows: Reals, *, rules: NearCopyRules | None = None) -> npt.NDArray[np.bool_]:
    """Which rows lie closer to rows of a fit than chance allows, without being equal to one of them.

    A row counts where some k of the known rows lie within a radius of it that is far smaller than the
    distance to all others. Of independent rows that is so for a share of `rules.ratio` at most. Where no more
    of the rows than that are close, none is named. Rows that equal a known one are not named either: in
    columns on a grid that is no wonder, and it needs no distances to count them.

    Arguments:
        known: The rows of the fit, shape `(n, d)`, data units, finite.
        rows: Others, shape `(m, d)`, the same columns.
        rules: When rows count as near copies.

    Returns:
        A mask, shape `(m,)`.
    """
    rules = rules or NearCopyRules()
    none = np.zeros(len(rows), dtype=np.bool_)
    if len(known) < 3 or not len(rows):
        return none
    level = _Levels.of(known, rules)
    exact = group_rows(known)
    first = np.empty(int(exact.max()) + 1, dtype=np.int64)
    first[exact[::-1]] = np.arange(len(exact))[::-1]
    looked_at = _spaced(len(rows), _n_looked_at(len(first), known.shape[1], rules))
    found = _copied(level(rows[looked_at]), _Rows(known, first, level), rules, itself=0)
    if int(found.is_copied.sum()) <= max(2.0, 10 * rules.ratio * len(looked_at)):
        return none
    from scipy.spatial import cKDTree

    nearest, _ = cKDTree(level(known[first])).query(level(rows), distance_upper_bound=found.radius)
    return np.asarray((nearest <= found.radius) & (nearest > 0), dtype=np.bool_)


# ── levels ──


class _Levels(NamedTuple):
    """The map of each column to its level: linear through a few quantiles, and beyond them."""

    knots: tuple[Reals, ...]
    levels: tuple[Reals, ...]

    @classmethod
    def of(cls, values: Rows, rules: NearCopyRules) -> _Levels:
        some = values[_spaced(len(values), rules.knot_rows)]
        share = (np.arange(rules.knots) + 0.5) / rules.knots
        knots, levels = [], []
        for column in some.T:
            ordered = np.sort(column)
            places = np.round(share * (len(ordered) - 1)).astype(np.int64)
            at, inverse = np.unique(ordered[places], return_inverse=True)
            heights = np.bincount(inverse, weights=share) / np.bincount(inverse)
            if len(at) == 1:  # one value holds nearly all rows
                wide = float(ordered[-1] - ordered[0]) or 1.0
                at, heights = np.array([at[0], at[0] + wide]), np.array([0.0, 1.0])
            knots.append(at)
            levels.append(heights)
        return cls(tuple(knots), tuple(levels))

    def __call__(self, values: Reals) -> Reals:
        """Levels of rows, shape `(n, d)`; about 0 to 1 in the bulk."""
        z = np.empty(values.shape)
        for j, (knots, levels) in enumerate(zip(self.knots, self.levels, strict=True)):
            slopes = np.diff(levels) / np.diff(knots)
            piece = np.clip(np.searchsorted(knots, values[:, j]) - 1, 0, len(slopes) - 1)
            z[:, j] = levels[piece] + (values[:, j] - knots[piece]) * slopes[piece]
        return z


class _Rows(NamedTuple):
    """Levelled rows of a table, a few at a time."""

    values: Rows
    places: Numbers
    level: _Levels

    def chunk(self, part: slice) -> Reals:
        return self.level(self.values[self.places[part]])


class _Levelled(NamedTuple):
    """The same where all of them are in memory."""

    places: Reals

    def chunk(self, part: slice) -> Reals:
        return self.places[part]


# ── distances ──


def _copied(queries: Reals, rows: _Rows | _Levelled, rules: NearCopyRules, *, itself: int) -> _Copied:
    """Which of these rows have copies among `rows`; `itself` is 1 where they are among them, else 0."""
    nearest = _nearest(queries, rows, rules.neighbours + 1 + itself)[:, itself:]
    exact = nearest[:, 0] == 0 if not itself else np.zeros(len(nearest), dtype=np.bool_)
    inner, outer = nearest[:, :-1], nearest[:, 1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.where(outer > 0, inner / outer, 1.0)
    ratios[exact] = 1.0
    best = np.argmin(ratios, axis=1)
    row = np.arange(len(queries))
    is_copied = ratios[row, best] <= rules.ratio
    # the distance of copies that no number tells apart is that of rounding
    smallest = np.maximum(inner[row, best], rules.ratio * rules.ratio * outer[row, best])
    middle = np.sqrt(smallest * outer[row, best])[is_copied]
    return _Copied(is_copied, float(np.median(middle)) if len(middle) else 0.0)


def _nearest(queries: Reals, rows: _Rows | _Levelled, count: int) -> Reals:
    """The smallest distances of each query to the rows, in order, shape `(q, at most count)`."""
    if isinstance(rows, _Rows) and isinstance(rows.values, SharedRows):
        shared = rows.values
        own = _nearest(queries, _Rows(shared.own, shared.local(rows.places), rows.level), count)
        found = shared.world.gather(torch.from_numpy(np.ascontiguousarray(own.T))).numpy().T
        return np.asarray(np.sort(found, axis=1)[:, :count])
    from scipy.spatial.distance import cdist

    best = np.empty((len(queries), 0))
    size = max(2 * count, 2**21 // len(queries))
    for start in range(0, len(rows.places), size):
        distances = cdist(queries, rows.chunk(slice(start, start + size)))
        if distances.shape[1] > count:
            distances = np.partition(distances, count - 1, axis=1)[:, :count]
        best = np.sort(np.hstack([best, distances]), axis=1)[:, :count]
    return best


def _by_chance(z: Reals, count: int, rules: NearCopyRules) -> int:
    """How many of so many rows are copied where each column is shuffled by itself; 0 in one column."""
    if z.shape[1] == 1:
        return 0
    source = np.random.default_rng(0)
    shuffled = np.column_stack([column[source.permutation(len(column))] for column in z.T])
    label = group_rows(shuffled)
    distinct = shuffled[np.unique(label, return_index=True)[1]]
    some = distinct[_spaced(len(distinct), count)]
    return int(_copied(some, _Levelled(distinct), rules, itself=1).is_copied.sum())


def _connected(z: Reals, radius: float) -> Numbers:
    """The number of each row's group: rows within `radius` of each other, step by step, shape `(n,)`."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    label: Numbers = np.arange(len(z), dtype=np.int64)
    while True:
        _, first = np.unique(label, return_index=True)
        tree = cKDTree(z[first])
        distances, found = tree.query(z[first], k=8, distance_upper_bound=radius)
        near = np.asarray(found, dtype=np.int64)
        place, which = np.nonzero(np.isfinite(distances) & (near != np.arange(len(first))[:, None]))
        if not len(place):
            return label
        edges = coo_array((np.ones(len(place)), (place, near[place, which])), shape=(len(first), len(first)))
        joined: Numbers = np.asarray(connected_components(edges, directed=False)[1], dtype=np.int64)
        label = joined[label]


def _spaced(n: int, most: int) -> Numbers:
    """At most so many of the numbers below n, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))


def _n_looked_at(n_rows: int, dim: int, rules: NearCopyRules) -> int:
    fewest, most = rules.rows
    return int(np.clip(rules.differences / (n_rows * dim), fewest, most))

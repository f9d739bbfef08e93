"""An autoregressive forest: each column's law, given those before it, from the leaves of a random forest.

    q(x) = Π_j q_j(x_j | x_1, ..., x_(j-1)),
    q_j(y | u) = Σ_h a_jh Σ_i w_ji(u) N(y; y_i, h²) + b_j N(y; 0, 3²),
    w_ji(u) = mean_t 1[i in leaf_t(u)]/|leaf_t(u)|

Trees are scikit-learn's `RandomForestRegressor` of column j on the earlier ones; the y_i are the training
values in a leaf, whether the tree was grown on them or not. a_jh, of twenty widths h from 3e-4 to 1, and b_j
>= 1e-3 follow by expectation-maximisation on 1,000 validation rows; the first column is a kernel estimate of
the same widths. A column's trees are grown a few at a time, 40 at most, while its part of the time lasts,
parts in proportion to the columns that a tree may look at. Where the first twelve would not be done, all
trees see fewer rows, 2,000 at least, and then a smaller share of the columns; columns for which no time is
left at all are independent, with a kernel estimate like the first. How many rows a leaf has at least, 2, 3,
5 or 10, is what gives validation rows the best law of two columns, the last and the middle one, by a few
trees in a tenth of the budget. Source: Meinshausen (2006), Quantile Regression Forests, eq. (4), for the
weights. Six settings were tried on rows set aside from training rows of `power` and `protein`: shares of
columns from 0.5 to 1 and of rows, and leaves of 2, 3 and 5, of which 5 was best on the first and 2 on the
second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from density import Reals, split
from sklearn.ensemble import RandomForestRegressor
from timed_descent import Clock

SETTINGS_TRIED = 6
TREES, TREES_AT_ONCE, FEWEST_TREES = 40, 4, 12
COLUMNS_SHARE, ROWS_SHARE = 0.7, 0.6
LEAVES, SHARE_OF_CHOOSING = (3, 2, 5, 10), 0.1
FEWEST_ROWS, ROWS_POWER = 2000, 1.15
"""A tree takes seconds like this power of its rows."""
WIDTHS = np.geomspace(3e-4, 1.0, 20)
BACKGROUND_WIDTH, LEAST_BACKGROUND = 3.0, 1e-3
VALIDATION_ROWS, WEIGHT_STEPS = 1000, 200
MANY_COLUMNS, VALIDATION_ROWS_OF_MANY = 200, 300
REACH = 9.0
"""Kernels are counted up to so many widths away."""
CENTRES_PER_WIDTH = 30
CHUNK_MEMBERS = 2**20
SHARE_OF_GROWING = 0.9

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Weights:
    """Of each width, `(20,)`, and of the normal law of width 3; together 1."""

    widths: Reals
    background: float

    def density(self, kernels: Reals, values: Reals) -> Reals:
        """q_j of values `(n,)` from their kernel sums at each width `(n, 20)`."""
        wide = _normal(values / BACKGROUND_WIDTH) / BACKGROUND_WIDTH
        return np.asarray(kernels @ self.widths + self.background * wide)

    def draw(self, centres: Reals, rng: np.random.Generator) -> Reals:
        """A value for each centre `(n,)`, which a kernel draw moves and a background draw forgets."""
        chances = np.append(self.widths, self.background)
        chosen = rng.choice(len(chances), size=len(centres), p=chances / chances.sum())
        noise = rng.standard_normal(len(centres)) * np.append(WIDTHS, BACKGROUND_WIDTH)[chosen]
        return np.where(chosen == len(WIDTHS), 0.0, centres) + noise


@dataclass(frozen=True)
class FirstColumn:
    """A kernel estimate at sorted values; wide kernels sit on some of them, evenly spaced in rank."""

    values: Reals

    def kernels(self, rows: Reals, values: Reals) -> Reals:
        """Mean kernel at each width, `(n, 20)`."""
        del rows
        found = np.empty((len(values), len(WIDTHS)))
        for place, width in enumerate(WIDTHS):
            apart = max(1, int(len(self.values) * width / CENTRES_PER_WIDTH))
            centres = self.values[apart // 2 :: apart]
            starts = np.searchsorted(centres, values - REACH * width)
            stops = np.searchsorted(centres, values + REACH * width)
            found[:, place] = _kernel_sums(centres, starts, stops, values, width) / len(centres)
        return found

    def centres(self, rows: Reals, rng: np.random.Generator) -> Reals:
        """A random centre for each row."""
        return rng.choice(self.values, size=len(rows))


@dataclass(frozen=True)
class LaterColumn:
    """A forest, and for each of its trees the training values in the order of their leaves.

    Arguments:
        trees: Of a fitted forest.
        values: `(trees, n)`, sorted by leaf.
        starts: Of each leaf in them, by its node, `(nodes,)` for each tree.
        sizes: Of each leaf, the same.
    """

    trees: list[Any]
    values: npt.NDArray[np.float32]
    starts: list[Counts]
    sizes: list[Counts]

    def kernels(self, rows: Reals, values: Reals) -> Reals:
        """Leaf-weighted kernel sum at each width, `(n, 20)`."""
        earlier = np.ascontiguousarray(rows, dtype=np.float32)
        found = np.zeros((len(values), len(WIDTHS)))
        for tree, ordered, starts, sizes in zip(
            self.trees, self.values, self.starts, self.sizes, strict=True
        ):
            nodes = tree.apply(earlier)
            count = sizes[nodes]
            for part in _chunks(count):
                owner = np.repeat(np.arange(part.start, part.stop), count[part])
                members = ordered[_ranges(starts[nodes[part]], count[part])]
                distance = np.square(values[owner] - members)
                first = np.cumsum(count[part]) - count[part]
                for place, width in enumerate(WIDTHS):
                    kernel = np.exp(distance * (-0.5 / width**2))
                    total = np.add.reduceat(kernel, first) / (count[part] * width)
                    found[part, place] += total
        return found / (len(self.trees) * np.sqrt(2 * np.pi))

    def centres(self, rows: Reals, rng: np.random.Generator) -> Reals:
        """A value from the leaf of each row in a random tree."""
        earlier = np.ascontiguousarray(rows, dtype=np.float32)
        chosen = rng.integers(len(self.trees), size=len(rows))
        found = np.empty(len(rows))
        for place, tree in enumerate(self.trees):
            mine = chosen == place
            nodes = tree.apply(earlier[mine])
            inside = rng.integers(self.sizes[place][nodes])
            found[mine] = self.values[place][self.starts[place][nodes] + inside]
        return found


Column = FirstColumn | LaterColumn


@dataclass(frozen=True)
class Forest:
    """A `Density` from the conditional law of each column."""

    columns: list[tuple[Column, Weights]]
    velocity_evaluations: None = None

    def log_prob(self, rows: Reals) -> Reals:
        total = np.zeros(len(rows))
        for place, (column, weights) in enumerate(self.columns):
            values = rows[:, place]
            total += np.log(weights.density(column.kernels(rows[:, :place], values), values))
        return total

    def sample(self, n: int, seed: int) -> Reals:
        rng, rows = np.random.default_rng([seed, 29]), np.empty((n, len(self.columns)))
        for place, (column, weights) in enumerate(self.columns):
            rows[:, place] = weights.draw(column.centres(rows[:, :place], rng), rng)
        return rows

    def round_trip_error(self, rows: Reals) -> None:
        del rows

    def log_prob_check(self, rows: Reals) -> None:
        del rows


def fit(train: Reals, *, budget: float, seed: int) -> Forest:
    """Fit to the rows."""
    clock = Clock(budget)
    fitted, held_out = split(train, seed)
    held_out = held_out[: VALIDATION_ROWS if train.shape[1] < MANY_COLUMNS else VALIDATION_ROWS_OF_MANY]
    first = FirstColumn(np.sort(fitted[:, 0]))
    columns: list[tuple[Column, Weights]] = [(first, _weights(first, held_out, 0))]
    fitted, growing = _affordable(fitted, clock, seed)
    growing = replace(growing, leaf=_best_leaf(fitted, held_out, clock, SHARE_OF_CHOOSING * budget, growing))
    costs = np.array([_columns_tried(place) for place in range(1, fitted.shape[1])], dtype=float)
    longest = 0.0
    for place in range(1, fitted.shape[1]):
        begun, column = clock.used(), None
        if clock.remaining() > longest:
            share = costs[place - 1] / costs[place - 1 :].sum()
            column = _grown(fitted, place, clock, share * clock.remaining(), growing)
        column = column or FirstColumn(np.sort(fitted[:FEWEST_ROWS, place]))
        columns.append((column, _weights(column, held_out, place)))
        longest = max(longest, clock.used() - begun)
    return Forest(columns)


@dataclass(frozen=True)
class Growing:
    """How trees are grown.

    Arguments:
        leaf: The least rows of a leaf.
        columns: The share of the earlier columns that a split looks at.
        seed: Of the trees.
    """

    leaf: int
    columns: float
    seed: int

    def forest(self, trees: int, place: int) -> RandomForestRegressor:
        """One not yet fitted, for a column."""
        return RandomForestRegressor(
            trees,
            min_samples_leaf=self.leaf,
            max_features=max(1, int(self.columns * place)),
            max_samples=ROWS_SHARE,
            warm_start=True,
            random_state=self.seed + place,
        )


def _columns_tried(place: int) -> int:
    return max(1, int(COLUMNS_SHARE * place))


def _best_leaf(fitted: Reals, held_out: Reals, clock: Clock, seconds: float, growing: Growing) -> int:
    """The least rows of a leaf that are best on validation rows, of those for which there is time."""
    begun, scores = clock.used(), dict[int, float]()
    weighed, judged = held_out[::2], held_out[1::2]
    places = sorted({fitted.shape[1] // 2, fitted.shape[1] - 1} - {0})
    for leaf in LEAVES:
        spent = clock.used() - begun
        if len(judged) == 0 or spent * (len(scores) + 1) > seconds * max(len(scores), 1):
            break
        scores[leaf] = 0.0
        for place in places:
            column = _grown(fitted, place, clock, 0.0, replace(growing, leaf=leaf), fewest=TREES_AT_ONCE)
            kernels = column.kernels(judged[:, :place], judged[:, place])
            density = _weights(column, weighed, place).density(kernels, judged[:, place])
            scores[leaf] += float(np.log(density).mean())
    return max(scores, key=scores.__getitem__) if scores else LEAVES[0]


def _affordable(fitted: Reals, clock: Clock, seed: int) -> tuple[Reals, Growing]:
    """As many rows, and columns of a split, as leave time for the fewest trees, by a pilot on one column."""
    dim, growing = fitted.shape[1], Growing(LEAVES[0], COLUMNS_SHARE, seed)
    if dim == 1:
        return fitted, growing
    some = fitted[:FEWEST_ROWS]
    begun = clock.used()
    growing.forest(1, dim - 1).fit(some[:, :-1], some[:, -1])
    tree_seconds = clock.used() - begun
    relative = sum(_columns_tried(place) for place in range(1, dim)) / _columns_tried(dim - 1)
    times_more = SHARE_OF_GROWING * max(clock.remaining(), 0.0) / (tree_seconds * relative * FEWEST_TREES)
    rows = fitted[: max(FEWEST_ROWS, int(FEWEST_ROWS * times_more ** (1 / ROWS_POWER)))]
    return rows, replace(growing, columns=COLUMNS_SHARE * min(1.0, times_more))


def _grown(
    fitted: Reals, place: int, clock: Clock, seconds: float, growing: Growing, *, fewest: int = 1
) -> LaterColumn:
    """Trees of one column, a few at a time, while there are seconds left for them."""
    begun, n_trees = clock.used(), 0
    forest = growing.forest(0, place)
    while n_trees < TREES:
        spent = clock.used() - begun
        if n_trees and spent * (n_trees + TREES_AT_ONCE) / n_trees > SHARE_OF_GROWING * seconds:
            break
        n_trees += TREES_AT_ONCE if n_trees else fewest
        n_trees = min(n_trees, TREES)
        forest.set_params(n_estimators=n_trees).fit(fitted[:, :place], fitted[:, place])
    trees = [grown.tree_ for grown in forest.estimators_]
    earlier, values = np.ascontiguousarray(fitted[:, :place], dtype=np.float32), fitted[:, place]
    ordered = np.empty((len(trees), len(values)), dtype=np.float32)
    starts, sizes = [], []
    for row, tree in enumerate(trees):
        nodes = tree.apply(earlier)
        ordered[row] = values[np.argsort(nodes, kind="stable")]
        size = np.bincount(nodes, minlength=tree.node_count)
        sizes.append(size)
        starts.append(np.cumsum(size) - size)
    return LaterColumn(trees, ordered, starts, sizes)


def _weights(column: Column, held_out: Reals, place: int) -> Weights:
    """Of the widths and the background, by expectation-maximisation on validation rows."""
    values = held_out[:, place]
    kernels = column.kernels(held_out[:, :place], values)
    parts = np.column_stack([kernels, _normal(values / BACKGROUND_WIDTH) / BACKGROUND_WIDTH])
    weights = np.full(parts.shape[1], 1 / parts.shape[1])
    for _ in range(WEIGHT_STEPS):
        shares = parts * weights
        weights = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
        background = max(weights[-1], LEAST_BACKGROUND)
        weights[:-1] *= (1 - background) / max(weights[:-1].sum(), np.finfo(float).tiny)
        weights[-1] = background
    return Weights(weights[:-1], float(weights[-1]))


def _kernel_sums(centres: Reals, starts: Counts, stops: Counts, values: Reals, width: float) -> Reals:
    """Σ_i N(y; c_i, h²) over the centres from start to stop, for each value y."""
    found, count = np.zeros(len(values)), stops - starts
    for part in _chunks(count):
        owner = np.repeat(np.arange(part.start, part.stop), count[part])
        near = centres[_ranges(starts[part], count[part])]
        kernel = _normal((values[owner] - near) / width) / width
        found[part] = np.bincount(owner - part.start, weights=kernel, minlength=part.stop - part.start)
    return found


def _ranges(starts: Counts, counts: Counts) -> Counts:
    """The numbers from each start on, so many of each, one after the other."""
    before = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(starts - before, counts)


def _chunks(counts: Counts) -> Iterator[slice]:
    """Neighbouring rows that have about so many members together."""
    total = np.cumsum(counts)
    start = 0
    while start < len(counts):
        limit = CHUNK_MEMBERS + (total[start - 1] if start else 0)
        stop = max(start + 1, int(np.searchsorted(total, limit)))
        yield slice(start, stop)
        start = stop


def _normal(x: Reals) -> Reals:
    return np.asarray(np.exp(-0.5 * np.square(x)) / np.sqrt(2 * np.pi))

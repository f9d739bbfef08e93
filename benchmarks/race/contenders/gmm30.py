"""A mixture of 30 Gaussians with full covariances, scikit-learn's, all other settings its defaults.

    q(x) = Σ_k w_k N(x; m_k, Σ_k)

Source: scikit-learn's `GaussianMixture`. Its expectation-maximisation ends by itself, so it has no
budget.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from density import Reals
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

SETTINGS_TRIED = 1
COMPONENTS = 30


@dataclass(frozen=True)
class Mixture:
    """A `Density` from a fitted estimator of scikit-learn."""

    estimator: Any
    velocity_evaluations: None = None

    def log_prob(self, rows: Reals) -> Reals:
        return np.asarray(self.estimator.score_samples(rows))

    def sample(self, n: int, seed: int) -> Reals:
        self.estimator.set_params(random_state=seed)
        return np.asarray(self.estimator.sample(n)[0])

    def round_trip_error(self, rows: Reals) -> None:
        del rows

    def log_prob_check(self, rows: Reals) -> None:
        del rows


def fit(train: Reals, *, budget: float, seed: int) -> Mixture:
    """Fit to the rows; the budget is not looked at."""
    del budget
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return Mixture(GaussianMixture(COMPONENTS, random_state=seed).fit(train))

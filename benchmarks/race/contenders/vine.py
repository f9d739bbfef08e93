"""A vine copula with kernel margins: the two-step fit of pyvinecopulib, `Vinedist.from_data`.

    log q(x) = Σ_j log f_j(x_j) + log c(F_1(x_1), ..., F_d(x_d)),    c a product of pair copulas

The pair copulas are transformation local likelihood estimates or independence, whichever is better by the
package's criterion (AIC), and the vine's structure is the package's spanning trees by Kendall's tau; margins
are the package's default, local-polynomial kernel estimates with a plug-in bandwidth (`Kde1d`) on the whole
line. It has no budget. Source: Nagler & Czado (2016), Evading the curse of dimensionality in nonparametric
density estimation; Nagler & Vatter's package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyvinecopulib as pv
from density import Reals, root_mean_square

SETTINGS_TRIED = 1
LEAST_LOG_DENSITY = -700.0
"""Where a margin's density is 0 in floating point, as beyond the last rows."""


@dataclass(frozen=True)
class Vine:
    """A `Density` from the package's fitted distribution."""

    distribution: Any
    velocity_evaluations: None = None

    def log_prob(self, rows: Reals) -> Reals:
        return np.maximum(self.distribution.logpdf(np.asfortranarray(rows)), LEAST_LOG_DENSITY)

    def sample(self, n: int, seed: int) -> Reals:
        return np.asarray(self.distribution.sample(n, seeds=[seed + 1]))

    def round_trip_error(self, rows: Reals) -> float:
        returned = self.distribution.inverse_rosenblatt(self.distribution.rosenblatt(rows))
        return root_mean_square(returned - rows)

    def log_prob_check(self, rows: Reals) -> None:
        del rows


def fit(train: Reals, *, budget: float, seed: int) -> Vine:
    """Fit to the rows; the budget is not looked at."""
    del budget
    controls = pv.FitControlsVinecop(family_set=[pv.tll, pv.indep], num_threads=1, seeds=[seed + 1])
    return Vine(pv.Vinedist.from_data(train, controls))

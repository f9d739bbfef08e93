"""Neural autoregressive flow: monotone networks of each column, from zuko.

Source: Huang, Krueger, Lacoste & Courville (2018), arXiv 1804.00779; the package's `zuko.flows.NAF`. The
derivative of a monotone network is exact, so that the likelihood is one of a law; the package's
unconstrained flow (`UNAF`) integrates a positive network by a quadrature of 32 points and takes the
derivative of the integral that it stands for instead, which need not be that of its map. Two transforms,
networks and batch as in the spline flow here, and a rate of 2e-3. The package inverts by bisection between
-10 and 10: draws beyond it are not to be had.
"""

from __future__ import annotations

from functools import partial

import zuko
from density import Reals

from contenders.nsf import BATCH, HIDDEN
from contenders.zuko_flow import ExactFlow, fit_flow

SETTINGS_TRIED = 1
TRANSFORMS, SIGNAL, MONOTONE_HIDDEN, RATE = 2, 16, (32, 32), 2e-3


def fit(train: Reals, *, budget: float, seed: int) -> ExactFlow:
    """Fit to the rows."""
    made = partial(
        zuko.flows.NAF,
        transforms=TRANSFORMS,
        signal=SIGNAL,
        network={"hidden_features": MONOTONE_HIDDEN},
        hidden_features=HIDDEN,
    )
    return fit_flow(made, train, budget=budget, seed=seed, batch=BATCH, rate=RATE)

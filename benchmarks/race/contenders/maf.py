"""Masked autoregressive flow: affine, five transforms, from zuko.

Source: Papamakarios, Pavlakou & Murray (2017), arXiv 1705.07057; the package's `zuko.flows.MAF`. Five
transforms as in the paper's tables; networks and descent are those of the spline flow here, not tuned for
it.
"""

from __future__ import annotations

from functools import partial

import zuko
from density import Reals

from contenders.nsf import BATCH, HIDDEN, RATE
from contenders.zuko_flow import ExactFlow, fit_flow

SETTINGS_TRIED = 1
TRANSFORMS = 5


def fit(train: Reals, *, budget: float, seed: int) -> ExactFlow:
    """Fit to the rows."""
    made = partial(zuko.flows.MAF, transforms=TRANSFORMS, hidden_features=HIDDEN)
    return fit_flow(made, train, budget=budget, seed=seed, batch=BATCH, rate=RATE)

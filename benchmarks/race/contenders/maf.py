"""Masked autoregressive flow: affine, five transforms, from zuko.

Source: Papamakarios, Pavlakou & Murray (2017), arXiv 1705.07057; the package's `zuko.flows.MAF`. Five
transforms as in the paper's tables; networks and descent are those of the spline flow here, not tuned for
it.
"""

from __future__ import annotations

import zuko
from density import Reals, seeded
from timed_descent import Clock

from contenders.nsf import BATCH, HIDDEN, RATE
from contenders.zuko_flow import ExactFlow, maximise_likelihood

SETTINGS_TRIED = 1
TRANSFORMS = 5


def fit(train: Reals, *, budget: float, seed: int) -> ExactFlow:
    """Fit to the rows."""
    clock, dim = Clock(budget), train.shape[1]
    with seeded(seed):
        flow = zuko.flows.MAF(dim, transforms=TRANSFORMS, hidden_features=HIDDEN)
        maximise_likelihood(flow, train, clock=clock, seed=seed, batch=BATCH, rate=RATE)
    return ExactFlow(flow, dim)

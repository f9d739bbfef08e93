"""Neural spline flow: autoregressive rational-quadratic splines of 8 bins, from zuko.

Source: Durkan, Bekasov, Murray & Papamakarios (2019), arXiv 1906.04032; the package's `zuko.flows.NSF`.
"""

from __future__ import annotations

import zuko
from density import Reals, seeded
from timed_descent import Clock

from contenders.zuko_flow import ExactFlow, maximise_likelihood

SETTINGS_TRIED = 8
TRANSFORMS, HIDDEN, BATCH, RATE = 4, (128, 128), 500, 1e-2


def fit(train: Reals, *, budget: float, seed: int) -> ExactFlow:
    """Fit to the rows."""
    clock, dim = Clock(budget), train.shape[1]
    with seeded(seed):
        flow = zuko.flows.NSF(dim, transforms=TRANSFORMS, hidden_features=HIDDEN)
        maximise_likelihood(flow, train, clock=clock, seed=seed, batch=BATCH, rate=RATE)
    return ExactFlow(flow, dim)

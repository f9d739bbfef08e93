"""The best of three sizes of neural spline flow, on plain and on whitened rows, from zuko.

The rule, by validation rows inside the budget, is that of `flow_trials.py`. Four transforms with splines of
8 bins, two hidden layers of 64, 128 or 256; the middle one has the settings of the spline flow here, wide
networks small batches and a low rate. Source: Durkan, Bekasov, Murray & Papamakarios (2019),
arXiv 1906.04032; the package's `zuko.flows.NSF`. Beyond the settings of the spline flow here none was tried.
"""

from __future__ import annotations

from functools import partial

import zuko
from density import Reals
from flow_trials import AffineThenFlow, candidates_of, fit_best

from contenders.nsf import SETTINGS_TRIED as SETTINGS_TRIED
from contenders.nsf import TRANSFORMS

SIZES = ((64, 500, 1e-2), (128, 500, 1e-2), (256, 200, 2e-3))
"""Width of both layers, rows of a batch, rate."""


def fit(train: Reals, *, budget: float, seed: int) -> AffineThenFlow:
    """Fit to the rows."""
    make = partial(zuko.flows.NSF, transforms=TRANSFORMS)
    return fit_best(candidates_of(make, SIZES), train, budget=budget, seed=seed)

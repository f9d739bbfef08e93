"""Free-form continuous flow, end-to-end maximum likelihood by the adjoint method, from zuko.

    min_theta  -E[log N(x(1); 0, I) + ∫ tr(dv_theta/dx) dt]

Source: Grathwohl et al. (2019), arXiv 1810.01367; the package's `zuko.flows.CNF`. Three layers of 64 as
in the paper's experiments in the plane, Adam 1e-3, batch 512; the trace in training is exact up to three
columns and Hutchinson's with one probe beyond, both the package's. Validation is the exact likelihood of
at most 500 rows.
"""

from __future__ import annotations

import torch
import zuko
from density import Reals, seeded, split
from timed_descent import Clock, batches, descend
from torch import Tensor, nn
from trace_integral import ContinuousFlow, Segment, in_double, log_prob

SETTINGS_TRIED = 1
HIDDEN, BATCH, RATE = (64, 64, 64), 512, 1e-3
EXACT_TRACE_COLUMNS = 3
VALIDATION_ROWS = 500
TRAINING_TOLERANCE = 1e-5
VALIDATION_TOLERANCE = 1e-3


def fit(train: Reals, *, budget: float, seed: int) -> ContinuousFlow:
    """Fit to the rows."""
    clock, dim = Clock(budget), train.shape[1]
    fitted, held_out = (torch.as_tensor(part, dtype=torch.float32) for part in split(train, seed))
    draws = batches(fitted, BATCH, torch.Generator().manual_seed(seed))
    with seeded(seed):
        flow = zuko.flows.CNF(
            dim,
            hidden_features=HIDDEN,
            atol=TRAINING_TOLERANCE,
            rtol=TRAINING_TOLERANCE,
            exact=dim <= EXACT_TRACE_COLUMNS,
        )

        def loss() -> Tensor:
            return -flow().log_prob(next(draws)).mean()

        def validation() -> float:
            rows = held_out[:VALIDATION_ROWS].double()
            return -float(log_prob(_segments(flow), rows, VALIDATION_TOLERANCE).mean())

        descend(flow, loss, validation, clock=clock, rate=RATE)
    return ContinuousFlow(_segments(flow), dim)


def _segments(flow: nn.Module) -> list[Segment]:
    return [Segment(in_double(flow.transform).f, 0.0, 1.0)]

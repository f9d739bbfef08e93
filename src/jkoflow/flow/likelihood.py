r"""The exact log-likelihood of the discrete map, one fold with an accumulator.

    log q_0(x) = -V(T_1^N(x)) - log Z + sum_n log|det dT_n(x_{n-1})|
               = log q_{N-1}(x_{N-1}) + sum_{n<N} log|det dT_n(x_{n-1})|

the second where q_{N-1}, which T_N takes to the base, has a closed form: the same number for less. Where the
known law is at the start, rows are those of the target: log p_N(y) = log q(x) - sum_n log|det dT_n(x_{n-1})|,
x = pull(y).

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, below eq. (38).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jkoflow.flow import Flow
from jkoflow.particles import Particles
from jkoflow.storage.chunks import PUSH_ROWS

__all__ = ["log_prob", "standard_error"]


def log_prob(flow: Flow, x: Tensor, context: Tensor | None = None) -> Tensor:
    """`log q_0` of each row, `(n,)`, nats in the units of `x` (standardised), float64; deterministic."""
    nats = torch.empty(len(x), dtype=torch.float64, device=x.device)
    for start, part in enumerate(Particles(x, context).chunks()):
        nats[start * PUSH_ROWS : start * PUSH_ROWS + len(part)] = _log_prob(flow, part)
    unknown = nats.isnan()
    if unknown.any():  # a row beyond the range of the dtype arrives as infinite; no law has density there
        nats[unknown & x.isinf().any(dim=1)] = -math.inf
    return nats


def _log_prob(flow: Flow, rows: Particles) -> Tensor:
    if flow.law_at == "start":
        at = flow.pull(rows.x, rows.context)
        return flow.law.log_prob(at.double()) - flow.log_det(at, rows.context)
    split = flow.split_source()
    if split is None:
        latent, log_det = flow.push_with_log_det(rows.x, rows.context)
        return flow.law.log_prob(latent.double()) + log_det
    before, source = split
    image, log_det = before.push_with_log_det(rows.x, rows.context)
    return source.log_prob(image, rows.context) + log_det


def standard_error(nats: Tensor) -> float:
    """Standard error of the mean of `nats`, shape `(n,)`; NaN for a single row, which tells nothing of it."""
    return float(nats.std() / math.sqrt(len(nats))) if len(nats) > 1 else math.nan

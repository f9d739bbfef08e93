"""Flows: the composition of blocks, its log-likelihood, and draws from it.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (23) and (38).
"""

from __future__ import annotations

from jkoflow.flow.flow import Flow, PushWithLogDet, push_block_with_log_det
from jkoflow.flow.likelihood import log_prob, standard_error
from jkoflow.flow.sampling import round_trip_tolerance, sample

__all__ = [
    "Flow",
    "PushWithLogDet",
    "log_prob",
    "push_block_with_log_det",
    "round_trip_tolerance",
    "sample",
    "standard_error",
]

"""Flows: the composition of blocks, its log-likelihood, and draws from it.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (23) and (38).
"""

from __future__ import annotations

from jkoflow.flow.flow import End, Flow
from jkoflow.flow.likelihood import log_prob, standard_error
from jkoflow.flow.sampling import round_trip_tolerance, sample

__all__ = [
    "End",
    "Flow",
    "log_prob",
    "round_trip_tolerance",
    "sample",
    "standard_error",
]

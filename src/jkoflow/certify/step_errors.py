r"""eps_n of every step, which the theorems ask for, as a plug-in from what is known of each block.

    eps_n = max(‖xi'_n‖ from samples, ‖xi'_n‖ by the model's own score) + ‖T_n^{n-1} - T_n^{-1}‖/gamma_n,

since ‖xi_n‖ <= ‖xi'_n‖ + ‖T_n^{n-1} - T_n^{-1}‖/gamma_n. The first is had from below, the second takes for
granted that q_n is p_n, so that no bound with this eps_n is a theorem's. At the last block q_N = q, whatever
the block does, and its own score tells nothing. A free step, gamma_n infinite, is no proximal step of finite
size: a bound that ends in one is its eps_n alone, of which nothing but the visible part is known, so that the
theorems are held against the steps between free ones. Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582,
(27)-(30) and Remark 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from jkoflow.certify.claim import Claim
from jkoflow.certify.first_order_residual import BlockResidual
from jkoflow.flow import Flow

__all__ = [
    "PLUG_IN",
    "UNKNOWN",
    "StepError",
    "first_of_run",
    "last_finite",
    "plug_in_errors",
    "within_knowledge",
]

PLUG_IN = "eps_n by a plug-in: the larger of two estimates, and the distance of T_n from the optimal map"
"""What a bound with `plug_in_errors` rests on."""

_NOTHING_SEEN = "a bound of 0 is no statement: the plug-in saw nothing of eps_n, which does not make it 0"
_FROM_BELOW = "it may be below the true eps_n, and the bound too small"
"""Why a number above a bound with `plug_in_errors` refutes nothing but the plug-in."""

UNKNOWN = (
    "give more held-out rows; in a context eps_n cannot be estimated, and the bracket of the KL needs none"
)
"""The remedy where an eps_n is not a number."""


class StepError(NamedTuple):
    """Step size and residual of one step.

    Arguments:
        gamma: gamma_n; infinite for a free step.
        eps: eps_n, standardised units; not a number where nothing is known of it.
    """

    gamma: float
    eps: float


def plug_in_errors(flow: Flow, measured: Sequence[BlockResidual]) -> list[StepError]:
    """gamma_n and eps_n of every block of the flow.

    Arguments:
        flow: The flow.
        measured: What was found of each of its blocks, in order; empty where there were too few rows.
    """
    if not measured:
        return [StepError(block.gamma, math.nan) for block in flow]
    *inner, last = measured
    found = [
        StepError(block.gamma, max(block.variational, block.own) + block.transport_gap) for block in inner
    ]
    return [*found, StepError(last.gamma, last.variational + last.transport_gap)]


def first_of_run(steps: Sequence[StepError], n: int) -> int:
    """How many of the first n steps end with the last free one: the law from which the others start."""
    return max((k for k in range(1, n + 1) if math.isinf(steps[k - 1].gamma)), default=0)


def last_finite(steps: Sequence[StepError]) -> int:
    """The number of the last step of finite size, from 1; 0 where every step is free."""
    return max((k for k in range(1, len(steps) + 1) if math.isfinite(steps[k - 1].gamma)), default=0)


def within_knowledge(found: Sequence[Claim]) -> list[Claim]:
    """The claims, undecided where one that rests on `plug_in_errors` fails, or holds against a bound of 0."""
    return [_within(claim) if claim.assumption.startswith(PLUG_IN) else claim for claim in found]


def _within(claim: Claim) -> Claim:
    if claim.verdict == "fails":
        return replace(claim, verdict="undecided", assumption=f"{claim.assumption}; {_FROM_BELOW}")
    if claim.bound == 0 and claim.stands:
        why = f"{claim.assumption}; {_NOTHING_SEEN}"
        return replace(claim, verdict="undecided", assumption=why, remedy=UNKNOWN)
    return claim

r"""eps_n of every step, which the theorems ask for, as a plug-in from what is known of each block.

    eps_n = max(‖xi'_n‖ from samples, ‖xi'_n‖ by the model's own score) + ‖T_n^{n-1} - T_n^{-1}‖/gamma_n,

since ‖xi_n‖ <= ‖xi'_n‖ + ‖T_n^{n-1} - T_n^{-1}‖/gamma_n. The first is had from below, the second takes for
granted that q_n is p_n, so that no bound with this eps_n is a theorem's. At the last block q_N = q, whatever
the block does, and its own score tells nothing. Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582,
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

__all__ = ["PLUG_IN", "UNKNOWN", "StepError", "plug_in_errors", "within_knowledge"]

PLUG_IN = "eps_n by a plug-in: the larger of two estimates, and the distance of T_n from the optimal map"
"""What a bound with `plug_in_errors` rests on."""

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


def within_knowledge(found: Sequence[Claim]) -> list[Claim]:
    """The claims, undecided where one fails against a bound that rests on `plug_in_errors`."""
    return [_unrefuted(claim) if _rests_on_plug_in(claim) else claim for claim in found]


def _rests_on_plug_in(claim: Claim) -> bool:
    return claim.verdict == "fails" and claim.assumption.startswith(PLUG_IN)


def _unrefuted(claim: Claim) -> Claim:
    return replace(claim, verdict="undecided", assumption=f"{claim.assumption}; {_FROM_BELOW}")

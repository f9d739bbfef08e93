r"""eps_n of every step, which the theorems ask for: by default a plug-in with the model's own score.

    xi_n = ∇V + ∇log q_n - (T_n^{-1} - id)/gamma_n at x_n = T_n(x_{n-1}),      eps_n = ‖xi_n‖_{p_n},

the first-order residual (29) with q_n, the law that the later blocks pull q back to, in the place of p_n, and
with the learned inverse in the place of the optimal map. At the end q_N = q, whatever the last block does:
where it is free, the plug-in would always be 0, so it is not a number there. All scores come from one sweep
back:

    log q_n(x) = -V(T_N∘…∘T_{n+1}(x)) + Σ_{k>n} log|det ∇T_k| - log Z,
    g_N = -∇V(x_N),      g_{n-1} = ∇T_n(x_{n-1})ᵀ g_n + ∇log|det ∇T_n|(x_{n-1}),      g_n = ∇log q_n(x_n).

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, (27)-(30) and (23).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from jkoflow.blocks import Block
from jkoflow.certify.claim import Claim
from jkoflow.certify.evidence import Evidence
from jkoflow.flow import Flow
from jkoflow.laws import Law
from jkoflow.particles import Particles

__all__ = ["PLUG_IN", "UNKNOWN", "Residuals", "StepError", "model_residuals", "within_knowledge"]

PLUG_IN = "eps_n by the model's own score q_n in the place of p_n"
"""What a bound with `model_residuals` rests on."""

_FROM_BELOW = (
    "the plug-in eps_n sees nothing of what the model itself misses, so that the bound may be too small"
)
"""Why a number above a bound with `model_residuals` refutes nothing but the plug-in."""

UNKNOWN = "the plug-in sees nothing of a free last block; the bracket of the KL does"
"""The remedy where an eps_n is not a number."""

_ROWS, _FEWEST_ROWS, _ENTRIES, _ENTRIES_AT_ONCE = 1000, 64, 2**16, 2**14


class StepError(NamedTuple):
    """Step size and residual of one step.

    Arguments:
        gamma: gamma_n; infinite for a free step.
        eps: eps_n, standardised units; not a number where nothing is known of it.
    """

    gamma: float
    eps: float


Residuals = Callable[[Evidence], Sequence[StepError]]
"""Gives eps_n of every block in the order of `push`, from a flow with held-out rows."""


def model_residuals(evidence: Evidence) -> list[StepError]:
    """gamma_n and the plug-in eps_n of every block, over up to 1,000 held-out rows (fewer beyond 65 columns).

    Where the model is exact it is the true one, up to how far the inverse is from the optimal map; of a free
    last block it knows nothing.
    """
    rows = evidence.held_out
    assert rows is not None, "asked for by whoever calls"
    count = max(_FEWEST_ROWS, min(_ROWS, _ENTRIES // rows.dim))
    order = torch.randperm(len(rows), generator=evidence.stream("step errors"))[:count]
    chosen = rows.rows(order.to(rows.x.device))
    parts = [_squares(evidence.flow, part) for part in chosen.chunks(max(1, _ENTRIES_AT_ONCE // rows.dim))]
    mean = torch.cat(parts, dim=1).mean(dim=1)
    found = [StepError(b.gamma, math.sqrt(float(m))) for b, m in zip(evidence.flow, mean, strict=True)]
    if math.isinf(found[-1].gamma):
        found[-1] = StepError(math.inf, math.nan)
    return found


def within_knowledge(found: Sequence[Claim], residuals: Residuals) -> list[Claim]:
    """The claims, undecided where one fails against a bound with eps_n that are estimated from below."""
    if residuals is not model_residuals:
        return list(found)
    return [_unrefuted(claim) if claim.verdict == "fails" else claim for claim in found]


def _unrefuted(claim: Claim) -> Claim:
    return replace(claim, verdict="undecided", assumption=f"{claim.assumption}; {_FROM_BELOW}")


def _squares(flow: Flow, rows: Particles) -> Tensor:
    """|xi_n|² of every block and row, shape `(N, m)`, float64."""
    positions = [rows.x]
    with torch.no_grad():
        for block in flow:
            positions.append(block.push(positions[-1], rows.context))
    score = -_slope(flow.base, positions[-1])
    squares = []
    for number, block in reversed(list(enumerate(flow))):
        before, after = positions[number], positions[number + 1]
        xi = _slope(flow.base, after) + score - (before - after) / block.gamma
        squares.append(xi.double().square().sum(dim=1))
        score = _pulled_score(block, before, score, rows.context)
    return torch.stack(squares[::-1])


@torch.enable_grad()
def _slope(base: Law, x: Tensor) -> Tensor:
    """∇V, shape `(m, d)`."""
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(base.potential(leaf).sum(), leaf)[0]


@torch.enable_grad()
def _pulled_score(block: Block, x: Tensor, score: Tensor, context: Tensor | None) -> Tensor:
    """∇log q_{n-1}(x) from ∇log q_n at T_n(x)."""
    leaf = x.detach().requires_grad_()
    y, log_det = block.push_with_log_det(leaf, context)
    return torch.autograd.grad((y * score).sum() + log_det.sum(), leaf)[0]

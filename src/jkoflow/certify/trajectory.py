r"""Held-out rows along the blocks: x_n = T_n(x_{n-1}), and the objective of each row at every block.

    G_n(x) = V(T_1^n(x)) + log Z - Σ_{k<=n} log|det ∇T_k(x_{k-1})|,      E G_n = KL(p_n‖q) + H(p_0)

so that differences of KL(p_n‖q) between blocks are known without the entropy H(p_0), and every law p_n that
the theorems of Section 4 speak of is there as rows.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, (22), (25) and (38).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jkoflow.blocks.log_det import push_block_with_log_det
from jkoflow.certify.evidence import GIVE_ROWS, Evidence, too_few
from jkoflow.particles import Particles

__all__ = ["Missing", "Trajectory", "convexity", "follow"]

_ROWS = 4000
"""At most so many held-out rows are followed through the blocks, drawn at random."""

_FEWEST_ROWS = 100
"""With fewer held-out rows than this no law p_n is looked at."""

_ENTRIES = 2**19
"""So few rows are followed that rows times columns is at most this, but never fewer than `_FEWEST_ROWS`;
they are kept at every block."""


@dataclass(frozen=True)
class Missing:
    """Why there is nothing to look at, and what to change."""

    why: str
    remedy: str


@dataclass(frozen=True)
class Trajectory:
    """Rows at every block.

    Arguments:
        positions: x_0, …, x_N, shape `(N + 1, m, d)`, float64 on the CPU.
        objective: G_n of each row, shape `(N + 1, m)`, nats, float64.
    """

    positions: Tensor
    objective: Tensor


def follow(evidence: Evidence) -> Trajectory | Missing:
    """Push up to 4,000 held-out rows, fewer beyond 131 columns, through all blocks, and keep them at each."""
    rows = evidence.unweighted
    if rows is None or len(rows) < _FEWEST_ROWS:
        have = 0 if rows is None else len(rows)
        return Missing(too_few(have, _FEWEST_ROWS), GIVE_ROWS)
    if not len(evidence.flow):
        return Missing("the flow has no blocks", "fit with max_blocks = 1 or more")
    count = max(_FEWEST_ROWS, min(_ROWS, _ENTRIES // rows.dim))
    order = torch.randperm(len(rows), generator=evidence.stream("trajectory"))[:count]
    particles, base = rows.rows(order.to(rows.x.device)), evidence.flow.law
    total = torch.zeros(len(particles), dtype=torch.float64)
    positions = [particles.x.double().cpu()]
    objective = [-base.log_prob(positions[0])]
    for block in evidence.flow:
        y, log_det = push_block_with_log_det(block, particles)
        particles, total = Particles(y, particles.context), total + log_det.double().cpu()
        positions.append(y.double().cpu())
        objective.append(-base.log_prob(positions[-1]) - total)
    path = Trajectory(torch.stack(positions), torch.stack(objective))
    if not (path.positions.isfinite().all() and path.objective.isfinite().all()):
        return Missing("a pushed row is not finite", "look at the rows' values")
    return path


def convexity(evidence: Evidence) -> float | Missing:
    """lambda of V, or why Theorem 4.3 does not speak of this model."""
    base = evidence.flow.law
    if evidence.takes_context:
        why = "each context has a law p_0 of its own, of which the rows hold one draw"
        return Missing(why, "see the bracket of the KL")
    if base.lam is None:
        why = f"V of {type(base).__name__} is not known to be strongly convex"
        return Missing(why, "see the bracket of the KL")
    return base.lam

r"""The residual with the model's own score: that of q_n, the reverse density, in the place of p_n's.

    log q_N = -V - log Z,      log q_{n-1}(x) = log q_n(T_n(x)) + log|det ∇T_n(x)|
    ∇log q_{n-1}(x) = ∇T_n(x)^T ∇log q_n(T_n(x)) + ∇log|det ∇T_n(x)|

A plug-in: it takes for granted that the model is right, q_n = p_n, and cannot see what a wrong model gets
wrong. At the last block q_N = q, so that ∇V + ∇log q_N = 0 and what is left is (T_N - id)/gamma_N: nothing of
how well the block was trained. It needs no samples of p_n but those at which it is evaluated, and its cost
grows with d as that of a likelihood.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (23) for q_n; its use in eq. (29) is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jkoflow.blocks import Block
from jkoflow.first_order.exact import rows_of_a_graph
from jkoflow.first_order.pairs import StepPairs, potential_gradient
from jkoflow.flow import Flow
from jkoflow.particles import Particles

__all__ = ["own_residual", "own_scores"]


def own_scores(flow: Flow, rows: Particles) -> list[Tensor]:
    """∇log q_n at y_n = T_n(...T_1(x)) for n = 0, ..., N, each `(m, d)`.

    Arguments:
        flow: T_N o ... o T_1 with its base law.
        rows: x, samples of p_0.
    """
    levels = [rows]
    for block in flow:
        levels.append(levels[-1].map(block.push))
    scores = [-potential_gradient(flow.law, levels[-1].x)]
    for block, level in reversed(list(zip(flow, levels[:-1], strict=True))):
        scores.append(_pulled_score(block, level, scores[-1]))
    return scores[::-1]


def _pulled_score(block: Block, rows: Particles, score: Tensor) -> Tensor:
    """∇log q_{n-1} at rows of level n - 1, from ∇log q_n at their images: one backward pass."""
    size, pulled = rows_of_a_graph(block), torch.empty_like(score)
    for start in range(0, len(rows), size):
        part = rows.rows(slice(start, start + size))
        at = part.x.clone().requires_grad_()
        y, log_det = block.push_with_log_det(at, part.context)
        total = (y * score[start : start + size]).sum() + log_det.sum()
        (pulled[start : start + size],) = torch.autograd.grad(total, at)
    return pulled


def own_residual(pairs: StepPairs, own_score: Tensor) -> Tensor:
    """∇V + ∇log q_n - (T^{-1} - id)/gamma at the rows of `pairs.after`, shape `(n, d)`.

    Arguments:
        pairs: Rows before and after the step.
        own_score: ∇log q_n at `pairs.after`, as `own_scores` gives it.
    """
    return pairs.known + own_score.to(pairs.after)

r"""The score of p_n by change of variables, where that of p_{n-1} is known.

    log p_n(T(x)) = log p_{n-1}(x) - log|det ∇T(x)|
    ∇log p_n(T(x)) = ∇T(x)^{-T} [ ∇log p_{n-1}(x) - ∇log|det ∇T(x)| ]

From the score of p_0, block by block, that of every p_n: no estimate, up to rounding. Only where p_0 is
known, as in Appendix D of the paper; never from a table alone.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (22) and below (38).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jkoflow.blocks import Block
from jkoflow.first_order.pairs import StepPairs
from jkoflow.particles import Particles

__all__ = ["Derivatives", "exact_residual", "push_with_derivatives", "pushed_score", "rows_of_a_graph"]


def rows_of_a_graph(block: Block, *, entries: int = 2**16) -> int:
    """Rows whose graph through the image and the log-determinant is small, whatever the solver's steps.

    Arguments:
        block: T_n.
        entries: Most numbers of tangents that a backward pass keeps; 2^16 of them take some 300 MB.
    """
    return max(1, entries // (block.dim * max(8, block.dim) * block.solver_steps))


@dataclass(frozen=True)
class Derivatives:
    """A block's image with its derivatives, all without a graph.

    Arguments:
        image: T(x), shape `(n, d)`.
        jacobian: ∇T(x), shape `(n, d, d)`; entry [i, j, k] is dT_j/dx_k at row i.
        log_det_gradient: ∇log|det ∇T(x)|, shape `(n, d)`.
    """

    image: Tensor
    jacobian: Tensor
    log_det_gradient: Tensor


def push_with_derivatives(block: Block, x: Tensor, context: Tensor | None = None) -> Derivatives:
    """T(x), ∇T(x) and ∇log|det ∇T(x)|, by one forward pass and d + 1 backward ones."""
    rows = Particles(x.detach(), context)
    parts = [_derivatives(block, part) for part in rows.chunks(rows_of_a_graph(block))]
    return Derivatives(
        torch.cat([part.image for part in parts]),
        torch.cat([part.jacobian for part in parts]),
        torch.cat([part.log_det_gradient for part in parts]),
    )


def _derivatives(block: Block, rows: Particles) -> Derivatives:
    at = rows.x.clone().requires_grad_()
    y, log_det = block.push_with_log_det(at, rows.context)
    columns = [torch.autograd.grad(column.sum(), at, retain_graph=True)[0] for column in y.T]
    gradient = torch.zeros_like(at)
    if log_det.requires_grad:  # that of an affine map does not depend on x
        (gradient,) = torch.autograd.grad(log_det.sum(), at)
    return Derivatives(y.detach(), torch.stack(columns, dim=1), gradient)


def pushed_score(
    block: Block, x: Tensor, score: Tensor, context: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """T(x) and ∇log p_n there, each `(n, d)`.

    Arguments:
        block: T_n.
        x: Rows of p_{n-1}, shape `(n, d)`.
        score: ∇log p_{n-1} at them, shape `(n, d)`.
        context: What each row is conditioned on, shape `(n, c)`, or None.
    """
    found = push_with_derivatives(block, x, context)
    return found.image, torch.linalg.solve(found.jacobian.mT, score - found.log_det_gradient)


def exact_residual(pairs: StepPairs, score_after: Tensor) -> Tensor:
    """xi' = ∇V + ∇log p_n - (T^{-1} - id)/gamma at the rows of `pairs.after`, shape `(n, d)`.

    Arguments:
        pairs: Rows before and after the step.
        score_after: ∇log p_n at `pairs.after`, as `pushed_score` gives it.
    """
    return pairs.known + score_after.to(pairs.after)

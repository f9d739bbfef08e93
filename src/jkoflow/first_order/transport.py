r"""How far a learned map is from the optimal one between the same laws: the step from xi' to xi.

    ‖xi‖ <= ‖xi'‖ + ‖T_n^{n-1} - T^{-1}‖/gamma

Two looks, neither of which proves that T is optimal. The optimal assignment between the rows y_i = T(x_i) and
the *same* x_j is i ↦ i where T is optimal (the graph of an optimal map is cyclically monotone; Rüschendorf
1996), without any error of sampling; it sees only what moves a row past another row. The derivative sees the
rest: T is optimal only if ∇T is symmetric **and** positive semidefinite everywhere (Brenier 1991); a rotation
by pi in the plane is symmetric, has xi' = 0, and makes no progress.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, Remark 3.2 and Lemma 3.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from jkoflow.blocks import Block
from jkoflow.blocks.ode.trace import exact_probes
from jkoflow.exact import GaussianState, transport_map
from jkoflow.first_order.pairs import StepPairs

__all__ = ["Derivative", "assignment", "derivative_at", "transport_gap"]

Reals = npt.NDArray[np.float64]


def assignment(after: Tensor, before: Tensor) -> Tensor:
    """The permutation s that minimises Σ_i |after_i - before_{s(i)}|², shape `(n,)`.

    Only -y·x of the squares depends on the pairing; any function of x alone may be added. With M the gradient
    of the optimal map between the Gaussians of the same moments, x^T M x/2, centred, makes each row's best
    partner nearly its own, from where the search starts: up to a hundred times as fast.
    """
    y, x = (np.asarray(rows.double().cpu().numpy()) for rows in (after, before))
    centred = x - x.mean(axis=0)
    matrix = transport_map(_regular_moments(x), _regular_moments(y)).matrix
    cost = ((centred @ matrix) * centred).sum(axis=1) / 2 - (y - y.mean(axis=0)) @ centred.T
    cost -= cost.min(axis=1, keepdims=True)
    return torch.as_tensor(linear_sum_assignment(cost)[1]).to(before.device)


def _regular_moments(x: Reals, *, ridge: float = 1e-6) -> GaussianState:
    """The moments of x with `ridge` mean variances added to each, so that no covariance is singular."""
    state = GaussianState.from_samples(x)
    floor = ridge * float(np.trace(state.covariance)) / state.dim + np.finfo(np.float64).tiny
    return GaussianState(state.mean, state.covariance + floor * np.eye(state.dim))


def transport_gap(pairs: StepPairs) -> float:
    """‖T_n^{n-1} - T^{-1}‖/gamma between the empirical laws of the pairs; 0 for a free step."""
    if math.isinf(pairs.gamma):
        return 0.0
    moved = pairs.before[assignment(pairs.after, pairs.before)] - pairs.before
    return float(moved.square().sum(dim=1).mean().sqrt()) / pairs.gamma


@dataclass(frozen=True)
class Derivative:
    """∇T at some rows.

    Arguments:
        asymmetry: Root mean square of ‖(∇T - ∇T^T)/2‖_F.
        smallest: Smallest eigenvalue of (∇T + ∇T^T)/2 at any of the rows.
        rows: How many.
    """

    asymmetry: float
    smallest: float
    rows: int


def derivative_at(block: Block, x: Tensor, context: Tensor | None = None) -> Derivative:
    """How symmetric and how positive ∇T is at the rows of x `(n, d)`."""

    def image(at: Tensor) -> Tensor:
        return block.push(at, context)

    with torch.no_grad():  # forward mode: no graph, whose memory would grow with d
        columns = torch.func.vmap(lambda v: torch.func.jvp(image, (x,), (v,))[1])(exact_probes(x))
    jacobian = columns.permute(1, 2, 0).double()
    odd, even = (jacobian - jacobian.mT) / 2, (jacobian + jacobian.mT) / 2
    asymmetry = float(odd.square().sum(dim=(1, 2)).mean().sqrt())
    return Derivative(asymmetry, float(torch.linalg.eigvalsh(even).min()), len(x))

r"""The step size of the proximal step that a block comes nearest to, by held-out rows alone.

    1/g = -<∇V + ∇log p_n, D>/‖D‖^2,    D = id - T^{-1},    over p_n = T_# p_{n-1}
        = E[d - tr (dT(x))^{-1} - ∇V(T(x)) . (T(x) - x)] / E|T(x) - x|^2,    x ~ p_{n-1}

xi' = ∇V + ∇log p_n + D/g is linear in 1/g, so that its norm is least at a quotient; the score falls out of it
by parts, <∇log p_n, D> = -E[div D] and div D(T(x)) = d - tr (dT(x))^{-1}. A block that follows the
Ornstein-Uhlenbeck path to tan^2 theta = gamma is such a step at about gamma/2 where p_n is smooth, and at
gamma where it has no width: for normal laws of any width and mean between sqrt(1 + gamma) - 1 and gamma.

Source: ours, from eq. (27)-(29) of Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582; docs/theory.md.
"""

from __future__ import annotations

import math

import torch

from jkoflow.blocks import Block
from jkoflow.laws import Law
from jkoflow.particles import Particles

__all__ = ["effective_gamma", "least_squares_gamma", "ou_gammas"]


def ou_gammas(gamma: float) -> tuple[float, float]:
    """Least and largest effective step size of the Ornstein-Uhlenbeck path to tan^2 theta = gamma."""
    return math.sqrt(1 + gamma) - 1, gamma


def effective_gamma(block: Block, rows: Particles, law: Law, gamma: float) -> float:
    """The effective step size of a block that was started on the Ornstein-Uhlenbeck path.

    Arguments:
        block: The block.
        rows: Held-out samples of p_{n-1}.
        law: q.
        gamma: That of the path, tan^2 theta; infinite for a free step, and then the answer.

    Returns:
        What the rows tell, within `ou_gammas`: of few rows it is uncertain, and a normal law's lies there.
    """
    if math.isinf(gamma):
        return gamma
    least, most = ou_gammas(gamma)
    found = least_squares_gamma(block, rows, law)
    return gamma if math.isnan(found) else min(max(found, least), most)


@torch.no_grad()
def least_squares_gamma(block: Block, rows: Particles, law: Law, *, tangents: int = 2**14) -> float:
    """The step size at which ‖xi'‖ is least; infinite or negative where the block is no descent, NaN at rest.

    Arguments:
        block: The block.
        rows: Held-out samples of p_{n-1}; the first so many that rows × columns is at most `tangents`.
        law: q.
        tangents: See `rows`.
    """
    some = rows.rows(slice(0, max(1, tangents // block.dim)))
    tops, bottoms = [], []
    for part in some.chunks(max(1, 2**12 // block.dim)):
        image, jacobian = block.push_with_jacobian(part.x, part.context)
        moved = (image - part.x).double()
        with torch.enable_grad():
            at = image.double().requires_grad_(True)
            slope = torch.autograd.grad(law.potential(at).sum(), at)[0]
        trace = torch.linalg.inv_ex(jacobian.double())[0].diagonal(dim1=1, dim2=2).sum(dim=1)
        tops.append(moved.square().sum(dim=1))
        bottoms.append(block.dim - trace - (slope * moved).sum(dim=1))
    top, bottom = some.mean(torch.cat(tops)), some.mean(torch.cat(bottoms))
    return top / bottom if bottom else math.nan

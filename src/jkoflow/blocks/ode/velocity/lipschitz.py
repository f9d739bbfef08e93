r"""The Lipschitz constant in x of a tapered SiLU network on Fourier features, from its weights.

    K = a max(G, max_r w(r) G + |w'(r)| (|F(0)| + G r)),      G = Lip(F)

G is a bound by the chain of layers with SiLU split as z/2 + psi(z), Lip(psi) = 0.59984 (the loop
transformation of Fazlyab et al. 2023, arXiv 2310.00116), Fourier features and taper w included; a is the
field's amplitude.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (33), for which K is needed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from jkoflow.blocks.ode.velocity.mlp import MLPVelocity

__all__ = ["network_lipschitz"]

silu_slope = 0.5998393194
"""silu' lies in [-0.09984, 1.09984]: it differs from 1/2 by at most this."""


@torch.no_grad()
def network_lipschitz(
    velocity: MLPVelocity, *, steps: int = 1, context: Tensor | None = None, cells: int = 1000
) -> float:
    """K with |v(x, t) - v(y, t)| <= K |x - y| for all x, y and the stage times t; infinite if not known.

    v = a w F: |∇v| <= a (w |∇F| + |∇w| |F|), and |F(x)| <= |F(0)| + Lip(F) |x| where |∇w| is not 0, in the
    shell from the radius R to 2R, which is cut into cells.

    Arguments:
        velocity: The field.
        steps: Runge-Kutta steps over [0, 1], for the times at which it is evaluated.
        context: Contexts for which it should hold, shape `(m, c)`.
        cells: Cells that the shell is cut into.
    """
    amplitude, radius = abs(float(velocity.amplitude)), float(velocity.radius)
    network = _untapered_lipschitz(velocity)
    if math.isinf(radius):
        return amplitude * network
    edges = torch.linspace(0, 1, cells + 1, dtype=torch.float64)
    left, right = edges[:-1], edges[1:]
    # the largest value of each factor in the cell: the product of them is above the largest product
    taper = 1 - left.pow(3) * (10 - 15 * left + 6 * left.square())
    hump = torch.maximum(left * (1 - left), right * (1 - right))
    hump[cells // 2 - 1 : cells // 2 + 1] = 0.25
    distance = (1 + 3 * right).sqrt()
    slope = 20 * hump.square() * distance / radius
    size = _largest_at_origin(velocity, steps, context) + network * radius * distance
    return amplitude * max(network, float((taper * network + slope * size).max()))


def _largest_at_origin(velocity: MLPVelocity, steps: int, context: Tensor | None) -> float:
    """The largest |F(0, t, c)| at the stage times."""
    dtype = velocity.radius.dtype
    given = None if context is None else context.to(dtype)
    if given is None and velocity.context_dim:
        return math.inf
    origin = torch.zeros(1 if given is None else len(given), velocity.dim, dtype=dtype).to(velocity.radius)
    norms = [
        velocity.raw(origin, stage / (2 * steps), given).norm(dim=1).max() for stage in range(2 * steps + 1)
    ]
    return float(torch.stack(norms).max())


def _untapered_lipschitz(velocity: MLPVelocity) -> float:
    """Lip(F) in x: G(k) bounds the derivative of the k-th layer before its activation.

    G(k) = 2^{1-k} ‖A_k...A_1 ∇phi‖ + Σ_{j<k} 2^{1+j-k} c ‖A_k...A_{j+1}‖ G(j),   c = 0.59984
    """
    layers = cast("list[nn.Linear]", [*velocity.hidden, velocity.out])
    weights = [layer.weight.double() for layer in layers]
    features = velocity.dim + 2 * velocity.n_frequencies
    weights[0] = weights[0][:, :features]
    bounds: list[float] = []
    for k in range(1, len(weights) + 1):
        product = weights[k - 1]
        total = 0.0
        for j in range(k - 1, 0, -1):
            norm = float(torch.linalg.matrix_norm(product, ord=2))
            total += 2.0 ** (1 + j - k) * silu_slope * norm * bounds[j - 1]
            product = product @ weights[j - 1]
        total += 2.0 ** (1 - k) * _features_norm(product, velocity)
        bounds.append(total)
    return bounds[-1]


def _features_norm(product: Tensor, velocity: MLPVelocity) -> float:
    """A bound on ‖P ∇phi(x)‖, phi = [x, sin Wx, cos Wx], for all x.

    The derivative of sin and cos is W, turned: with D the lengths of W's rows, ‖P D‖ ‖D^{-1} W‖.
    """
    direct = float(torch.linalg.matrix_norm(product[:, : velocity.dim], ord=2))
    if not velocity.n_frequencies:
        return direct
    frequencies = velocity.frequencies.double()
    lengths = frequencies.norm(dim=1)
    turned = frequencies / torch.where(lengths > 0, lengths, 1.0)[:, None]
    weighted = product[:, velocity.dim :] * lengths.repeat(2)
    return direct + float(torch.linalg.matrix_norm(weighted, ord=2) * torch.linalg.matrix_norm(turned, ord=2))

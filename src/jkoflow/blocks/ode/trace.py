r"""The divergence of a velocity field: exact, or Hutchinson's unbiased estimate.

    div v = tr J,     E[e^T J e] = tr J   for e with independent entries of mean 0 and variance 1.

Both are one forward-mode pass over tangents: the identity's columns for the exact trace, Rademacher probes
for the estimate (Hutchinson 1990; its variance is 2 (|J_s|_F^2 - sum_i J_ii^2), J_s the symmetric part of
J).
"""

from __future__ import annotations

import torch
from torch import Tensor

from jkoflow.blocks.ode.velocity import VelocityField

__all__ = ["exact_probes", "rademacher_probes", "velocity_and_divergence"]


def exact_probes(x: Tensor) -> Tensor:
    """The d unit directions for each row of `x` `(n, d)`, shape `(d, n, d)`; their estimate is exact."""
    n, d = x.shape
    return torch.eye(d, dtype=x.dtype, device=x.device)[:, None, :].expand(d, n, d)


def rademacher_probes(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` random sign vectors for each row, `(count, n, d)`, scaled so that they sum to the mean."""
    signs = torch.randint(0, 2, (count, *x.shape), generator=generator).to(x) * 2 - 1
    scale: float = count**-0.5
    return scale * signs


def velocity_and_divergence(
    field: VelocityField, x: Tensor, t: float, probes: Tensor, context: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Velocity `(n, d)` and sum over the probes of e^T J e, shape `(n,)`."""
    velocity, slopes = field.with_tangents(x, t, probes, context)
    return velocity, (slopes * probes).sum(dim=(0, 2))

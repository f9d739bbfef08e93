r"""What one proximal step minimises: three named terms in nats.

    L(T) = E[V(T(x))] - E[log|det dT(x)|] + E|x - T(x)|^2 / (2 gamma),      x ~ p_{n-1}

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (25); a free step has gamma infinite and so no
third term.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jkoflow.blocks import Block
from jkoflow.blocks.ode.trace import exact_probes, rademacher_probes
from jkoflow.errors import InputError
from jkoflow.flow import PushWithLogDet
from jkoflow.laws import Law
from jkoflow.particles import Particles

__all__ = [
    "DIVERGENCES",
    "TRAINED_DETERMINANT_DIM",
    "KLObjective",
    "Terms",
    "penalised_log_det",
    "push_penalised",
    "push_with_log_det_by",
]

DIVERGENCES = ("auto", "determinant", "exact", "hutchinson")
"""How training sees the log-determinant; scoring always uses the determinant of the discrete map."""

TRAINED_DETERMINANT_DIM = 3
"""Up to here `auto` trains on the determinant itself: d tangents cost little more than one probe."""

_LEAST_LOG_DET = -3.0
"""Times d: where the logarithm of a determinant goes on as its tangent. A factor 20 in every direction."""
_LARGEST_RATIO_LOG = 20.0


@dataclass(frozen=True)
class Terms:
    """The loss of one step, term by term: means over the batch, nats.

    Arguments:
        potential: `E[V(T(x))]`.
        neg_log_det: `-E[log|det dT(x)|]`.
        transport: `E|x - T(x)|^2 / (2 gamma)`; 0 for a free step.
        moved: `E|x - T(x)|^2`, standardised units squared.
    """

    potential: Tensor
    neg_log_det: Tensor
    transport: Tensor
    moved: Tensor

    @property
    def total(self) -> Tensor:
        """L(T), nats."""
        return self.potential + self.neg_log_det + self.transport


def push_with_log_det_by(divergence: str, *, dim: int, generator: torch.Generator) -> PushWithLogDet:
    """The way to push a batch with its log-determinant that training uses.

    Arguments:
        divergence: One of `DIVERGENCES`.
        dim: d.
        generator: Source of Hutchinson's probes, one fresh probe for each row and update.
    """
    if divergence not in DIVERGENCES:
        raise InputError(f"divergence: expected one of {list(DIVERGENCES)}, got {divergence!r}")
    if divergence == "auto":
        divergence = "determinant" if dim <= TRAINED_DETERMINANT_DIM else "hutchinson"
    if divergence == "determinant":
        return push_penalised
    if divergence == "exact":
        return lambda block, batch: block.push_with_trace(batch.x, batch.context, exact_probes(batch.x))
    return lambda block, batch: block.push_with_trace(
        batch.x, batch.context, rademacher_probes(batch.x, 1, generator)
    )


def push_penalised(block: Block, batch: Particles) -> tuple[Tensor, Tensor]:
    """T(x) and `penalised_log_det` of dT(x), shapes `(n, d)` and `(n,)`."""
    y, jacobian = block.push_with_jacobian(batch.x, batch.context)
    return y, penalised_log_det(jacobian)


def penalised_log_det(jacobian: Tensor) -> Tensor:
    r"""log det of each matrix, continued by its tangent at a small determinant: a fold costs.

        log det A            where det A >= m,   log m = -3 d
        log m + det A/m - 1  below, and for det A < 0

    log|det A| would reward a map that folds, whose likelihood is none: below m this is smaller than the
    logarithm, so that a loss with it bounds the true one from above, and its gradient leads out of the fold.
    Source: ours.

    Arguments:
        jacobian: Shape `(n, d, d)`.

    Returns:
        Shape `(n,)`, nats.
    """
    sign, log_abs = torch.linalg.slogdet(jacobian)
    least = _LEAST_LOG_DET * jacobian.shape[-1]
    ratio = sign * (log_abs - least).clamp(max=_LARGEST_RATIO_LOG).exp()
    return torch.where(ratio >= 1, log_abs, least + ratio - 1)


@dataclass(frozen=True)
class KLObjective:
    """The proximal step of `KL(. | q)`; it has no state of its own.

    Arguments:
        base: q, with potential V.
        gamma: Step size; infinite for a free step.
    """

    base: Law
    gamma: float

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise InputError(f"gamma: expected a number > 0, got {self.gamma}")

    def init(self, particles: Particles, seed: int) -> None:
        """The objective's state before a step: none."""
        del particles, seed

    def update(self, state: None, batch: Particles) -> None:
        """The state after a batch: none."""
        del state, batch

    def terms(self, block: Block, batch: Particles, state: None, push: PushWithLogDet) -> Terms:
        """The three terms of eq. (25) on a batch, differentiable in the block's parameters."""
        del state
        y, log_det = push(block, batch)
        return self.terms_of(batch.x, y, log_det)

    def terms_of(self, x: Tensor, y: Tensor, log_det: Tensor) -> Terms:
        """The three terms from particles, their images and log-determinants."""
        moved = (x - y).square().sum(dim=1).mean()
        return Terms(self.base.potential(y).mean(), -log_det.mean(), moved / (2 * self.gamma), moved)

r"""Ways to push particles through a block with its log-determinant: exact, or as training sees it.

    log|det dT(x)|,    its trace estimate,    or log det continued by its tangent, so that a fold costs

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (21); Hutchinson (1990) for the trace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from jkoflow.blocks.base import Block
from jkoflow.blocks.ode.trace import exact_probes, rademacher_probes
from jkoflow.errors import InputError
from jkoflow.particles import Particles, empty_rows
from jkoflow.storage.chunks import TANGENT_ROWS

__all__ = [
    "DIVERGENCES",
    "PushWithLogDet",
    "penalised_log_det",
    "push_block_with_log_det",
    "push_exactly",
    "push_penalised",
    "push_with_log_det_by",
]

DIVERGENCES = ("auto", "determinant", "exact", "hutchinson")
"""Ways in which training sees the log-determinant; scores always use `Block.push_with_log_det`."""

PushWithLogDet: TypeAlias = Callable[[Block, Particles], tuple[Tensor, Tensor]]
"""A block's image of rows and its log-determinant there, exact or as training sees it."""


def push_exactly(block: Block, part: Particles) -> tuple[Tensor, Tensor]:
    """T(x) and the log-determinant of the map, as scores have it."""
    return block.push_with_log_det(part.x, part.context)


def push_block_with_log_det(
    block: Block, particles: Particles, push: PushWithLogDet = push_exactly
) -> tuple[Tensor, Tensor]:
    """One block's image and log-determinant of many rows, in chunks that bound the memory of the tangents.

    Where several processes have these rows, each pushes some of the chunks.

    Arguments:
        block: The block.
        particles: The rows.
        push: How a chunk is pushed; see `push_with_log_det_by` for other ways than the exact one. One that
            draws random numbers is not for several processes.
    """
    size = max(1, TANGENT_ROWS // (1 + block.dim))
    if not len(particles):
        return particles.x, particles.x.new_zeros(0)
    if particles.world.size > 1 and len(particles) > size:
        return _divided(block, list(particles.chunks(size)), push)
    image, log_dets, start = empty_rows(len(particles), particles.dim, particles.x), [], 0
    with torch.no_grad():
        for part in particles.chunks(size):
            image[start : start + len(part)], log_det = push(block, part)
            log_dets.append(log_det)
            start += len(part)
    return image, torch.cat(log_dets)


@torch.no_grad()
def _divided(block: Block, parts: list[Particles], push: PushWithLogDet) -> tuple[Tensor, Tensor]:
    """Image and log-determinant of chunks of rows, each pushed by one process."""
    world = parts[0].world
    found = [push(block, parts[number]) for number in world.pieces(len(parts))]
    like, nats = push(block, parts[0].rows(slice(1)))
    images = torch.cat([like[:0], *(image for image, _ in found)])
    return world.gather(images), world.gather(torch.cat([nats[:0], *(log_det for _, log_det in found)]))


def push_with_log_det_by(
    divergence: str, *, dim: int, generator: torch.Generator, determinant_dim: int = 3
) -> PushWithLogDet:
    """The way to push a batch with its log-determinant that training uses.

    Arguments:
        divergence: One of `DIVERGENCES`.
        dim: d.
        generator: Source of Hutchinson's probes, one fresh probe for each row and update.
        determinant_dim: Columns up to which `"auto"` is the determinant itself: d tangents cost little more
            than one probe there.
    """
    if divergence not in DIVERGENCES:
        raise InputError(f"divergence: expected one of {list(DIVERGENCES)}, got {divergence!r}")
    if divergence == "auto":
        divergence = "determinant" if dim <= determinant_dim else "hutchinson"
    if divergence == "determinant":
        return push_penalised
    if divergence == "exact":
        return lambda block, batch: block.push_with_trace(batch.x, batch.context, exact_probes(batch.x))
    return lambda block, batch: block.push_with_trace(
        batch.x, batch.context, rademacher_probes(batch.x, 1, generator)
    )


def push_penalised(block: Block, batch: Particles) -> tuple[Tensor, Tensor]:
    """T(x) and `penalised_log_det` of dT(x), `(n, d)` and `(n,)`; of a map that cannot fold its own."""
    if not block.can_fold:
        return push_exactly(block, batch)
    y, jacobian = block.push_with_jacobian(batch.x, batch.context)
    return y, penalised_log_det(jacobian)


def penalised_log_det(jacobian: Tensor, *, least: float = -3.0, largest_ratio_log: float = 20.0) -> Tensor:
    r"""log det of each matrix, continued by its tangent at a small determinant: a fold costs.

        log det A            where det A >= m,   log m = -3 d
        log m + det A/m - 1  below, and for det A < 0

    log|det A| would reward a map that folds, whose likelihood is none: below m this is smaller than the
    logarithm, so that a loss with it bounds the true one from above, and its gradient leads out of the fold.
    Source: ours.

    Arguments:
        jacobian: Shape `(n, d, d)`.
        least: log m for each column: a factor 20 in every direction.
        largest_ratio_log: Logarithm that log |det A|/m is cut at, so that its exponential is a number.

    Returns:
        Shape `(n,)`, nats.
    """
    sign, log_abs = torch.linalg.slogdet(jacobian)
    least = least * jacobian.shape[-1]
    ratio = sign * (log_abs - least).clamp(max=largest_ratio_log).exp()
    return torch.where(ratio >= 1, log_abs, least + ratio - 1)

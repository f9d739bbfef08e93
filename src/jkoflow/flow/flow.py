r"""A flow: the composition T_N o ... o T_1 of trained blocks, a value once it is made.

    push = T_N o ... o T_1,   pull = its inverse,   log_det(x) = sum_n log|det dT_n(x_{n-1})|

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (38).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from jkoflow.blocks import Block, Inverse, SourcedBlock
from jkoflow.laws import Law, StandardNormal
from jkoflow.particles import Particles, empty_rows

__all__ = ["Flow", "PushWithLogDet", "push_block_with_log_det"]

_PULL_ROWS = 1024
"""Rows that are pulled at once: Newton's method may need all their Jacobians."""

_TANGENT_ROWS = 6144
"""Rows × (1 + d) that are carried at once: what they need in a layer is little more than a core's cache."""


PushWithLogDet: TypeAlias = Callable[[Block, Particles], tuple[Tensor, Tensor]]
"""A block's image of rows and its log-determinant there, exact or as training sees it."""


def _exactly(block: Block, part: Particles) -> tuple[Tensor, Tensor]:
    return block.push_with_log_det(part.x, part.context)


def push_block_with_log_det(
    block: Block, particles: Particles, push: PushWithLogDet = _exactly
) -> tuple[Tensor, Tensor]:
    """One block's image and log-determinant of many rows, in chunks that bound the memory of the tangents.

    Arguments:
        block: The block.
        particles: The rows.
        push: How a chunk is pushed; see `objective.push_with_log_det_by` for other ways than the exact one.
    """
    size = max(1, _TANGENT_ROWS // (1 + block.dim))
    if not len(particles):
        return particles.x, particles.x.new_zeros(0)
    image, log_dets, start = empty_rows(len(particles), particles.dim, particles.x), [], 0
    with torch.no_grad():
        for part in particles.chunks(size):
            image[start : start + len(part)], log_det = push(block, part)
            log_dets.append(log_det)
            start += len(part)
    return image, torch.cat(log_dets)


class Flow(nn.Module):
    """T_N o ... o T_1 with the base law at its end.

    Arguments:
        base: q, the law of the pushed particles.
        blocks: T_1, ..., T_N in the order of `push`.
    """

    def __init__(self, base: Law, blocks: Iterable[Block] = ()) -> None:
        super().__init__()
        self.base = base
        self.blocks = nn.ModuleList(blocks)
        self.requires_grad_(False)

    @property
    def dim(self) -> int:
        """d."""
        return self.base.dim

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Block]:
        yield from self.blocks  # type: ignore[misc]  # ModuleList is not generic

    def then(self, block: Block) -> Flow:
        """The flow that goes on with `block`; this one stays as it is."""
        return Flow(self.base, [*self, block])

    def truncated(self, n_blocks: int) -> Flow:
        """The first `n_blocks` blocks alone."""
        return Flow(self.base, list(self)[:n_blocks])

    def split_source(self) -> tuple[Flow, SourcedBlock] | None:
        """The flow before its last block, and that block, where it knows the law that it takes to q."""
        *before, last = self if len(self) else [None]
        if not isinstance(last, SourcedBlock) or not isinstance(self.base, StandardNormal):
            return None
        return self.truncated(len(before)), last

    def push(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """T_N(...T_1(x)), shape `(n, d)`."""
        particles = Particles(x, context)
        for block in self:
            particles = particles.map(block.push)
        return particles.x

    def push_with_log_det(
        self, x: Tensor, context: Tensor | None = None, *, push: PushWithLogDet = _exactly
    ) -> tuple[Tensor, Tensor]:
        """The image and the log-determinant of the whole map, nats, `(n, d)` and `(n,)`, by `push`."""
        total = x.new_zeros(len(x), dtype=torch.float64)
        particles = Particles(x, context)
        for block in self:
            y, log_det = push_block_with_log_det(block, particles, push)
            particles, total = Particles(y, context), total + log_det.to(torch.float64)
        return particles.x, total

    def log_det(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`log|det d(T_N o ... o T_1)(x)|`, shape `(n,)`, nats, float64."""
        return self.push_with_log_det(x, context)[1]

    def invert(self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None) -> Inverse:
        """The inverse image, each block refined to `tolerance`; the error is the whole map's round trip."""
        particles = Particles(y, context)
        for block in reversed(list(self)):
            particles = particles.map(partial(block.pull, tolerance=tolerance), size=_PULL_ROWS)
        error = (self.push(particles.x, context) - y).norm(dim=1)
        return Inverse(particles.x, error)

    def pull(self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None) -> Tensor:
        """T_1^-1(...T_N^-1(y)), shape `(n, d)`."""
        return self.invert(y, context, tolerance=tolerance).x

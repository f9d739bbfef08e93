r"""A flow: the composition T_N o ... o T_1 of trained blocks with a known law at one end, a value once made.

    push = T_N o ... o T_1,   pull = its inverse,   log_det(x) = sum_n log|det dT_n(x_{n-1})|

The known law q is at the end where a table is pushed to it, and at the start where it is pushed to a target
that is known by its energy. Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (38).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from jkoflow.blocks import Block, Inverse, Source
from jkoflow.blocks.log_det import PushWithLogDet, push_block_with_log_det, push_exactly
from jkoflow.counts import checked_count
from jkoflow.errors import InputError
from jkoflow.laws import Law
from jkoflow.particles import Particles
from jkoflow.storage.chunks import PULL_ROWS

__all__ = ["End", "Flow"]

End = Literal["end", "start"]
"""Where the known law is."""


class Flow(nn.Module):
    """T_N o ... o T_1 with a known law at its end, or at its start.

    Arguments:
        law: q, the law of the pushed particles; at the start, the law of those that are pushed.
        blocks: T_1, ..., T_N in the order of `push`.
        law_at: `"end"` or `"start"`.

    Raises:
        InputError: Another `law_at`.
    """

    def __init__(self, law: Law, blocks: Iterable[Block] = (), *, law_at: End = "end") -> None:
        super().__init__()
        if law_at not in get_args(End):
            raise InputError(f"law_at: expected 'end' or 'start', got {law_at!r}")
        self.law, self.law_at = law, law_at
        self.blocks = nn.ModuleList(blocks)
        self.requires_grad_(False)

    @property
    def dim(self) -> int:
        """d."""
        return self.law.dim

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Block]:
        yield from self.blocks  # type: ignore[misc]  # ModuleList is not generic

    def then(self, block: Block) -> Flow:
        """The flow that goes on with `block`; this one stays as it is."""
        return Flow(self.law, [*self, block], law_at=self.law_at)

    def truncated(self, n_blocks: int) -> Flow:
        """The first `n_blocks` blocks alone."""
        return Flow(self.law, list(self)[: checked_count(n_blocks, "n_blocks", least=0)], law_at=self.law_at)

    def split_source(self) -> tuple[Flow, Source] | None:
        """The flow before its last block, and the law that this takes to q, where it has a closed form."""
        if not len(self) or self.law_at == "start":
            return None
        *before, last = self
        source = last.source(self.law)
        return None if source is None else (self.truncated(len(before)), source)

    def push(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """T_N(...T_1(x)), shape `(n, d)`."""
        particles = Particles(x, context)
        for block in self:
            particles = particles.map(block.push)
        return particles.x

    def push_with_log_det(
        self, x: Tensor, context: Tensor | None = None, *, push: PushWithLogDet = push_exactly
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
            particles = particles.map(partial(block.pull, tolerance=tolerance), size=PULL_ROWS)
        error = (self.push(particles.x, context) - y).norm(dim=1)
        return Inverse(particles.x, error)

    def pull(self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None) -> Tensor:
        """T_1^-1(...T_N^-1(y)), shape `(n, d)`."""
        return self.invert(y, context, tolerance=tolerance).x

"""Particles: samples of the current law p_n, with the context each was observed under.

Row i of `x` is a draw of p_n in standardised units; a step takes particles and returns particles, and there
is no second copy of the data downstream (Cheng, Lu, Tan & Xie 2024, arXiv 2310.17582, eq. 22). Particles of
256 MB and more live in a temporary file that goes with them; the numbers are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from jkoflow.errors import InputError
from jkoflow.storage.scratch import empty_array

__all__ = ["PUSH_ROWS", "Particles", "empty_rows"]

PUSH_ROWS = 16_384
"""Rows that are pushed at once: large enough for full speed, small enough that memory stays flat."""


def empty_rows(n_rows: int, dim: int, like: Tensor) -> Tensor:
    """Rows `(n, d)` to be filled, of the dtype and device of `like`; large ones on the CPU are on disk."""
    if like.device.type != "cpu":
        return like.new_empty(n_rows, dim)
    return torch.from_numpy(empty_array((n_rows, dim), torch.empty(0, dtype=like.dtype).numpy().dtype))


@dataclass(frozen=True)
class Particles:
    """Samples of one law.

    Arguments:
        x: Positions, shape `(n, d)`, standardised units.
        context: What each row is conditioned on, shape `(n, c)`, or None.
    """

    x: Tensor
    context: Tensor | None = None

    def __post_init__(self) -> None:
        if self.x.dim() != 2:
            raise InputError(f"particles: expected shape (n, d), got {tuple(self.x.shape)}")
        if self.context is not None and (self.context.dim() != 2 or len(self.context) != len(self.x)):
            raise InputError(
                f"context: expected shape ({len(self.x)}, c), got {tuple(self.context.shape)};"
                " give one context row for each row"
            )

    def __len__(self) -> int:
        return len(self.x)

    @property
    def dim(self) -> int:
        """d, the number of columns."""
        return self.x.shape[1]

    @property
    def context_dim(self) -> int:
        """c, the number of context columns; 0 without context."""
        return 0 if self.context is None else self.context.shape[1]

    def rows(self, index: Tensor | slice) -> Particles:
        """The particles at `index`, in that order."""
        return Particles(self.x[index], None if self.context is None else self.context[index])

    def draw(self, count: int, generator: torch.Generator) -> Particles:
        """`count` particles drawn with replacement."""
        return self.rows(torch.randint(len(self), (count,), generator=generator).to(self.x.device))

    def chunks(self, size: int = PUSH_ROWS) -> Iterator[Particles]:
        """The particles in order, at most `size` rows at a time."""
        for start in range(0, len(self), size):
            yield self.rows(slice(start, start + size))

    @torch.no_grad()
    def map(self, push: Callable[[Tensor, Tensor | None], Tensor], *, size: int = PUSH_ROWS) -> Particles:
        """The image of the particles under `push(x, context)`, written chunk by chunk into one new array."""
        image = empty_rows(len(self), self.dim, self.x)
        for start in range(0, len(self), size):
            part = self.rows(slice(start, start + size))
            image[start : start + len(part)] = push(part.x, part.context)
        return Particles(image, self.context)

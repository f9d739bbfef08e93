"""Particles: samples of the current law p_n, with the context each was observed under.

Row i of `x` is a draw of p_n in standardised units; a step takes particles and returns particles, and there
is no second copy of the data downstream (Cheng, Lu, Tan & Xie 2024, arXiv 2310.17582, eq. 22). Particles of
256 MB and more live in a temporary file that goes with them; the numbers are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from jkoflow.errors import InputError
from jkoflow.storage.scratch import empty_array

__all__ = ["PUSH_ROWS", "DeferredParticles", "Particles", "empty_rows"]

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

    @property
    def columns(self) -> int:
        """c + d."""
        return self.dim + self.context_dim

    def rows(self, index: Tensor | slice) -> Particles:
        """The particles at `index`, in that order."""
        return Particles(self.x[index], None if self.context is None else self.context[index])

    def few(self, index: Tensor) -> Particles:
        """As `rows`, for once: where particles are deferred, no others are made for it."""
        return self.rows(index.to(self.x.device))

    def draw(self, count: int, generator: torch.Generator) -> Particles:
        """`count` particles drawn with replacement."""
        return self.rows(torch.randint(len(self), (count,), generator=generator).to(self.x.device))

    def chunks(self, size: int = PUSH_ROWS) -> Iterator[Particles]:
        """The particles in order, at most `size` rows at a time."""
        for start in range(0, len(self), size):
            yield self.rows(slice(start, start + size))

    def deferred(self, push: Callable[[Tensor, Tensor | None], Tensor]) -> Particles:
        """As `map`, but rows are pushed when they are asked for: see `DeferredParticles`."""
        return DeferredParticles(self, push)

    @torch.no_grad()
    def map(self, push: Callable[[Tensor, Tensor | None], Tensor], *, size: int = PUSH_ROWS) -> Particles:
        """The image of the particles under `push(x, context)`, written chunk by chunk into one new array."""
        like = self.rows(slice(0, 0)).x
        image = empty_rows(len(self), self.dim, like)
        for start in range(0, len(self), size):
            part = self.rows(slice(start, start + size))
            image[start : start + len(part)] = push(part.x, part.context)
        return Particles(image, self.context)


class DeferredParticles(Particles):
    """The image of particles under a push, made when it is asked for: a slice for itself, all rows once.

    What follows the last block that is trained looks at some of the rows, and what follows the last block of
    all at none. The particles that they came from go when all rows have been pushed.

    Arguments:
        source: The particles.
        push: As of `Particles.map`.
    """

    _source: Particles
    _push: Callable[[Tensor, Tensor | None], Tensor]
    _shape: tuple[int, int]

    def __init__(self, source: Particles, push: Callable[[Tensor, Tensor | None], Tensor]) -> None:
        shape = (len(source), source.dim)  # the class is frozen, so not by attribute
        self.__dict__.update(context=source.context, _source=source, _push=push, _shape=shape)

    @cached_property
    def x(self) -> Tensor:
        """Positions, shape `(n, d)`, standardised units."""
        image = self._source.map(self._push)
        del self.__dict__["_source"]
        return image.x

    def __len__(self) -> int:
        return self._shape[0]

    @property
    def dim(self) -> int:
        """d, the number of columns."""
        return self._shape[1]

    def few(self, index: Tensor) -> Particles:
        """As `rows`, for once: no others are made for it."""
        if "x" in self.__dict__:
            return super().few(index)
        return Particles(self._source.x, self.context).few(index).map(self._push)

    def rows(self, index: Tensor | slice) -> Particles:
        """The particles at `index`, in that order."""
        if "x" in self.__dict__ or not isinstance(index, slice):
            return super().rows(index)
        # of all rows of the source, so that a slice has the same bits whoever has asked for what before
        source = Particles(self._source.x, self.context)
        return source.rows(index).map(self._push)

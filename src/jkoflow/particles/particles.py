"""Particles: samples of the current law p_n, with the context and the weight that each was observed with.

    E[f(x)] = sum_i w_i f(x_i) / sum_i w_i,      x_i ~ p_n

Row i of `x` is a draw of p_n in standardised units; a step takes particles and returns particles, and there
is no second copy of the data downstream (Cheng, Lu, Tan & Xie 2024, arXiv 2310.17582, eq. 22). Particles of
256 MB and more live in a temporary file that goes with them; the numbers are the same to the last bit. Where
several processes fit together, `particles.shared` has particles whose rows are divided among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from jkoflow.counts import checked_count
from jkoflow.errors import InputError
from jkoflow.storage.chunks import PUSH_ROWS
from jkoflow.storage.scratch import empty_array
from jkoflow.world import ALONE, World

__all__ = ["DeferredParticles", "Particles", "empty_rows", "joined"]


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
        weight: How much each row counts, shape `(n,)`, float64, >= 0; None where all count the same.
        world: The processes that have these particles, which may divide the work on them.

    Raises:
        InputError: Shapes that do not agree.
    """

    x: Tensor
    context: Tensor | None = None
    weight: Tensor | None = None
    world: World = ALONE

    def __post_init__(self) -> None:
        if self.x.dim() != 2:
            raise InputError(f"particles: expected shape (n, d), got {tuple(self.x.shape)}")
        if self.context is not None and (self.context.dim() != 2 or len(self.context) != len(self.x)):
            raise InputError(
                f"context: expected shape ({len(self.x)}, c), got {tuple(self.context.shape)};"
                " give one context row for each row"
            )
        if self.weight is not None and self.weight.shape != (len(self.x),):
            raise InputError(f"weight: expected shape ({len(self.x)},), got {tuple(self.weight.shape)}")

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

    # ── rows ──

    def at(self, x: Tensor) -> Particles:
        """The same rows at other positions, shape `(n, d)`."""
        return Particles(x, self.context, self.weight, self.world)

    def rows(self, index: Tensor | slice) -> Particles:
        """The particles at `index`, in that order."""
        context, weight = self._beside(index)
        return Particles(self.x[index], context, weight, self.world)

    def few(self, index: Tensor) -> Particles:
        """As `rows`, for once: where particles are deferred, no others are made for it."""
        return self.rows(index.to(self.own.x.device))

    def draw(self, count: int, generator: torch.Generator) -> Particles:
        """`count` particles drawn with replacement, each by its weight."""
        count = checked_count(count, "count", least=0)
        if self.weight is None:
            index = torch.randint(len(self), (count,), generator=generator)
        else:
            position = torch.rand(count, generator=generator, dtype=torch.float64)
            index = torch.searchsorted(self._cumulated, position * self._cumulated[-1], right=True)
        drawn = self.rows(index.to(self.own.x.device))
        return drawn if self.weight is None else replace(drawn, weight=None)

    def chunks(self, size: int = PUSH_ROWS) -> Iterator[Particles]:
        """The particles in order, at most `size` rows at a time."""
        for start in range(0, len(self), checked_count(size, "size")):
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
        return self.at(image)

    @property
    def own(self) -> Particles:
        """Those of this process; all of them where they are not divided."""
        return self

    @property
    def settled(self) -> Particles:
        """The same particles where all of them are known: no push is still to come."""
        return self

    def each(self, of: Callable[[Particles], Tensor]) -> Tensor:
        """A number for each row, shape `(n,)`, of `PUSH_ROWS` rows at a time, divided among the processes."""
        parts = list(self.chunks())
        if self.world.size == 1:
            return torch.cat([of(part) for part in parts])
        return self.world.divided(len(parts), lambda number: of(parts[number]), like=of(self.rows(slice(1))))

    # ── statistics ──

    def average(self, values: Tensor) -> Tensor:
        """The mean over the rows of a number for each, shape `(n,)`; differentiable."""
        if self.weight is None:
            return values.mean()
        weight = self.weight.to(values)
        return (weight * values).sum() / weight.sum()

    def mean(self, values: Tensor) -> float:
        """The mean over the rows of a number for each, shape `(n,)`, in float64."""
        numbers = values.detach().to(torch.float64)
        if self.weight is None:
            return float(numbers.mean())
        return float((self.weight * numbers).sum() / self.weight.sum())

    def standard_error(self, values: Tensor) -> float:
        """The standard error of `mean`; NaN for a single row, which tells nothing of it.

        With weights the number of rows is the effective one, since a mean with unequal weights is as
        uncertain as that of so many rows.
        """
        rows = self.effective_rows
        if rows <= 1:
            return math.nan
        squares = (values.detach().to(torch.float64) - self.mean(values)).square()
        return math.sqrt(self.mean(squares) / (rows - 1))

    @property
    def effective_rows(self) -> float:
        """(sum w)² / sum w²: the number of rows where all count the same (Kish 1965)."""
        if self.weight is None:
            return float(len(self))
        return float(self.weight.sum().square() / self.weight.square().sum())

    @cached_property
    def _cumulated(self) -> Tensor:
        assert self.weight is not None
        return self.weight.cpu().cumsum(dim=0)

    def _beside(self, index: Tensor | slice) -> tuple[Tensor | None, Tensor | None]:
        """Context and weight of the rows at `index`."""
        parts = (None if values is None else values[index] for values in (self.context, self.weight))
        context, weight = parts
        return context, weight


def joined(first: Particles, second: Particles) -> Particles:
    """The rows of both, which have a context and weights together or neither."""
    pairs = ((getattr(first, name), getattr(second, name)) for name in ("x", "context", "weight"))
    x, context, weight = (None if one is None else torch.cat([one, other]) for one, other in pairs)
    assert x is not None
    return Particles(x, context, weight, first.world)


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
        beside = {"weight": source.weight, "world": source.world}
        self.__dict__.update(beside, _source=source, _push=push, _shape=shape)

    @cached_property
    def settled(self) -> Particles:
        """The particles with all rows pushed."""
        image = self._source.map(self._push)
        del self.__dict__["_source"]
        return image

    @property
    def x(self) -> Tensor:
        """Positions, shape `(n, d)`, standardised units."""
        return self.settled.x

    @property
    def context(self) -> Tensor | None:
        """What each row is conditioned on, shape `(n, c)`, or None."""
        return self._known.context

    def __len__(self) -> int:
        return self._shape[0]

    @property
    def dim(self) -> int:
        """d, the number of columns."""
        return self._shape[1]

    @property
    def context_dim(self) -> int:
        """c, the number of context columns; 0 without context."""
        return self._known.context_dim

    @property
    def own(self) -> Particles:
        """Those of this process; all of them where they are not divided."""
        return self.settled.own

    def few(self, index: Tensor) -> Particles:
        """As `rows`, for once: no others are made for it."""
        if self._is_settled:
            return self.settled.few(index)
        return self._source.settled.few(index).map(self._push)

    def rows(self, index: Tensor | slice) -> Particles:
        """The particles at `index`, in that order."""
        if self._is_settled or not isinstance(index, slice):
            return self.settled.rows(index)
        # of all rows of the source, so that a slice has the same bits whoever has asked for what before
        return self._source.settled.rows(index).map(self._push)

    def map(self, push: Callable[[Tensor, Tensor | None], Tensor], *, size: int = PUSH_ROWS) -> Particles:
        """The image under `push` of what `Particles.map` says, without these particles in between."""
        if self._is_settled:
            return self.settled.map(push, size=size)
        first = self._push
        return self._source.settled.map(lambda x, context: push(first(x, context), context), size=size)

    @property
    def _is_settled(self) -> bool:
        return "settled" in self.__dict__

    @property
    def _known(self) -> Particles:
        """Particles with the same rows."""
        return self.settled if self._is_settled else self._source

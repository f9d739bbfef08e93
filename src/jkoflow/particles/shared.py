r"""Particles whose rows are divided among several processes, which look at them as one does at all rows.

    chunk k = rows 16,384 k, ..., 16,384 (k + 1) - 1,    k < C
    process r of R has chunks ceil(r C / R), ..., ceil((r + 1) C / R) - 1

A process pushes its own, chunk by chunk, which is how one process pushes all of them, so that positions are
the same to the last bit. Rows that are asked for by their numbers are sent to all processes. Weights, 8 bytes
a row, are in each of them. Source: ours, docs/scale.md.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from jkoflow.particles.particles import Particles
from jkoflow.storage.chunks import PUSH_ROWS
from jkoflow.world import World

__all__ = ["SharedParticles", "own_rows"]


def own_rows(n_rows: int, world: World) -> slice:
    """Which of `n_rows` particles are this process's."""
    return world.part(n_rows, unit=PUSH_ROWS)


class SharedParticles(Particles):
    """Samples of one law, divided among processes by `own_rows`.

    Every method but `own` is called by all processes at the same time, with the same arguments.

    Arguments:
        own: Those of this process.
        n_rows: How many all of them have.
        weight: How much each of all rows counts, shape `(n,)`, float64; None where all count the same.
        world: The processes.
    """

    _own: Particles
    _rows: slice
    _n_rows: int

    def __init__(self, own: Particles, n_rows: int, weight: Tensor | None, world: World) -> None:
        rows = own_rows(n_rows, world)  # the class is frozen, so not by attribute
        beside = {"weight": weight, "world": world}
        self.__dict__.update(beside, _own=own, _rows=rows, _n_rows=n_rows)

    def __len__(self) -> int:
        return self._n_rows

    @property
    def dim(self) -> int:
        """d, the number of columns."""
        return self._own.dim

    @property
    def context_dim(self) -> int:
        """c, the number of context columns; 0 without context."""
        return self._own.context_dim

    @property
    def own(self) -> Particles:
        """Those of this process, without weights."""
        return self._own

    @property
    def x(self) -> Tensor:
        """All positions, shape `(n, d)`, in each process: for few rows."""
        return self.world.gather(self._own.x)

    @property
    def context(self) -> Tensor | None:
        """What each row is conditioned on, shape `(n, c)`, in each process: for few rows."""
        return None if self._own.context is None else self.world.gather(self._own.context)

    def rows(self, index: Tensor | slice) -> Particles:
        """The particles at `index`, in that order, in each process."""
        weight = None if self.weight is None else self.weight[index]
        if not isinstance(index, slice):
            return self._sent(self._chosen(index), weight)
        start, stop, step = index.indices(len(self))
        if step != 1:
            numbers = torch.arange(start, stop, step, device=self._own.x.device)
            return self._sent(self._chosen(numbers), weight)
        first = self._rows.start
        part = self._joint(slice(max(start - first, 0), max(stop - first, 0)))
        return self._sent(self.world.gather(part) if stop > start else part[:0], weight)

    def each(self, of: Callable[[Particles], Tensor]) -> Tensor:
        """A number for each row, shape `(n,)`, of `PUSH_ROWS` rows at a time, in each process."""
        like = of(self.rows(slice(1)))[:0]
        return self.world.gather(torch.cat([like, *(of(part) for part in self._own.chunks())]))

    def map(self, push: Callable[[Tensor, Tensor | None], Tensor], *, size: int = PUSH_ROWS) -> Particles:
        """The image of the particles under `push(x, context)`, of which each process makes its own part."""
        return SharedParticles(self._own.map(push, size=size), len(self), self.weight, self.world)

    def _joint(self, index: Tensor | slice) -> Tensor:
        """Own positions with their context beside them, shape `(m, d + c)`."""
        own = self._own.rows(index)
        return own.x if own.context is None else torch.cat([own.x, own.context], dim=1)

    def _chosen(self, index: Tensor) -> Tensor:
        """Positions and contexts of rows by their numbers, shape `(m, d + c)`, in each process."""
        mine = ((index >= self._rows.start) & (index < self._rows.stop)).nonzero()[:, 0]
        like = self._own.x
        chosen = like.new_zeros(len(index), self.columns)
        chosen[mine] = self._joint(index[mine] - self._rows.start)
        return self.world.merge(chosen)

    def _sent(self, joint: Tensor, weight: Tensor | None) -> Particles:
        x, context = joint[:, : self.dim], joint[:, self.dim :]
        if not self.context_dim:
            return Particles(joint, None, weight, self.world)
        return Particles(x.contiguous(), context.contiguous(), weight, self.world)

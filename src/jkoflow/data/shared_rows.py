"""Rows of a table that lie in several processes, one part after the other, read as an array is.

    values[:, j]    the whole column, in each process: n numbers
    values[rows]    these rows, in each process

Every process asks for the same at the same time. Nothing but what is asked for is ever sent. Source: ours,
docs/scale.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from jkoflow.world import World

__all__ = ["Rows", "SharedRows"]

Reals = npt.NDArray[np.float64]


class SharedRows:
    """An array of shape `(n, d)`, float64, of which each process has some rows.

    Arguments:
        own: The rows of this process, shape `(m, d)`.
        world: The processes; the rows of the first come first.
    """

    ndim = 2

    def __init__(self, own: Reals, world: World) -> None:
        self.own, self.world = own, world
        counts = world.gather(torch.tensor([len(own)])).tolist()
        self._first = int(sum(counts[: world.rank]))
        self.shape: tuple[int, int] = (int(sum(counts)), own.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Reals:
        if isinstance(key, tuple):
            rows, place = key
            column = self._gathered(self.own[:, place])
            return column if isinstance(rows, slice) and rows == slice(None) else column[rows]
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            part = self.own[max(start - self._first, 0) : max(stop - self._first, 0)]
            return self._gathered(part) if step == 1 else self._chosen(np.arange(start, stop, step))
        return self._chosen(np.flatnonzero(key) if key.dtype == np.bool_ else key)

    def min(self, axis: int) -> Reals:
        """The least number of each column, shape `(d,)`."""
        return np.asarray(self._gathered(self._extreme(np.minimum)).min(axis=axis))

    def max(self, axis: int) -> Reals:
        """The largest number of each column, shape `(d,)`."""
        return np.asarray(self._gathered(self._extreme(np.maximum)).max(axis=axis))

    def select(self, places: Sequence[int]) -> SharedRows:
        """The columns at these places."""
        return SharedRows(np.ascontiguousarray(self.own[:, places]), self.world)

    def keep(self, rows: npt.NDArray[np.int64]) -> SharedRows:
        """The rows of these numbers, which grow; each stays where it is."""
        return SharedRows(self.own[self.local(rows)], self.world)

    def local(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where in `own` those of the rows of these numbers are that this process has."""
        return rows[self._are_own(rows)] - self._first

    def _extreme(self, of: np.ufunc) -> Reals:
        """Least or largest numbers of the own rows, shape `(1, d)`; none where there are no rows."""
        return self.own[:0] if not len(self.own) else of.reduce(self.own, axis=0)[None]

    def _are_own(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        return np.asarray((rows >= self._first) & (rows < self._first + len(self.own)), dtype=np.bool_)

    def _chosen(self, rows: npt.NDArray[np.int64]) -> Reals:
        chosen = np.zeros((len(rows), self.shape[1]))
        mine = self._are_own(rows)
        chosen[mine] = self.own[rows[mine] - self._first]
        return np.asarray(self.world.merge(torch.from_numpy(chosen)).numpy())

    def _gathered(self, part: Reals) -> Reals:
        return np.asarray(self.world.gather(torch.from_numpy(np.array(part))).numpy())


Rows: TypeAlias = Reals | SharedRows
"""Rows of numbers, shape `(n, d)`, all of them here or among several processes."""

"""The processes of a fit: what several of them, each with its own part of the rows, have to do together.

    one process:  broadcast(a) = a,  gather(t) = t,  merge(t) = t,  largest(a) = a,  divided(n, f) = f(0), ...

All processes run the same program on the same numbers. What is divided among them are the rows, and work that
comes in pieces: each does some whole pieces, and the results are put together in the order of the pieces. So
every number is the one that a single process finds, to the last bit. Files and the terminal are for the first
alone. Source: ours, docs/scale.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jkoflow.errors import JKOFlowError

__all__ = ["ALONE", "Alone", "World"]


class World(ABC):
    """The processes that fit one model together.

    Attributes:
        rank: Number of this process, from 0.
        size: How many there are.
    """

    rank: int
    size: int

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks to the terminal."""
        return self.rank == 0

    @abstractmethod
    def broadcast(self, value: Any) -> Any:
        """The first process's value, something JSON can hold, in each of them."""

    @abstractmethod
    def broadcast_bytes(self, data: bytes) -> bytes:
        """The first process's bytes, in each of them."""

    @abstractmethod
    def gather(self, rows: Tensor) -> Tensor:
        """The rows `(n_i, ...)` of all processes, one after the other, in each of them."""

    @abstractmethod
    def merge(self, parts: Tensor) -> Tensor:
        """Tensors of one shape put together, bit for bit: each number is 0 in all processes but one."""

    @abstractmethod
    def largest(self, value: float) -> float:
        """The largest of the processes' numbers."""

    @abstractmethod
    def agree(self, error: JKOFlowError | None) -> None:
        """Raise the error of the first process that has one, in each of them; nothing where none has."""

    def pieces(self, count: int) -> range:
        """Which of `count` pieces of work are for this process: some that follow each other."""
        return range(-(-count * self.rank // self.size), -(-count * (self.rank + 1) // self.size))

    def part(self, n_rows: int, *, unit: int = 1) -> slice:
        """Which of `n_rows` rows are for this process, in whole units of so many rows but for the last."""
        units = self.pieces(-(-n_rows // unit))
        return slice(min(units.start * unit, n_rows), min(units.stop * unit, n_rows))

    def divided(self, count: int, work: Callable[[int], Tensor], *, like: Tensor) -> Tensor:
        """The results of pieces of work, shape `(n_i, ...)`, in their order, each done by one process.

        Arguments:
            count: How many pieces, at least one.
            work: The result of a piece of that number, from 0, which must not draw random numbers.
            like: A tensor of the results' shape but for their rows, of their dtype and device.
        """
        if count == 1:  # its result would take longer to send than to compute
            return work(0)
        return self.gather(torch.cat([like[:0], *(work(number) for number in self.pieces(count))]))


class Alone(World):
    """One process, which has all rows."""

    rank, size = 0, 1

    def broadcast(self, value: Any) -> Any:
        return value

    def broadcast_bytes(self, data: bytes) -> bytes:
        return data

    def gather(self, rows: Tensor) -> Tensor:
        return rows

    def merge(self, parts: Tensor) -> Tensor:
        return parts

    def largest(self, value: float) -> float:
        return value

    def agree(self, error: JKOFlowError | None) -> None:
        if error is not None:
            raise error


ALONE: World = Alone()
"""The world of a fit in one process."""

"""The processes of a fit: what several of them, each with its own share of the rows, have to do together.

    one process:  sum(t) = t,  mean(v) = mean of v,  gather(t) = t,  broadcast(a) = a,  share(n) = n

A statistic over rows is a sum over the rows of every process, a draw is divided among them, a decision is
taken by the first and told to the others, and only the first writes files. A fit goes through these verbs
whatever the number of processes; alone they change no bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

__all__ = ["ALONE", "Alone", "World"]


class World(ABC):
    """The processes that fit one model together."""

    @property
    @abstractmethod
    def is_first(self) -> bool:
        """Whether this process takes decisions and writes files."""

    @abstractmethod
    def sum(self, values: Tensor) -> Tensor:
        """The sum over processes of a tensor that has the same shape in each."""

    @abstractmethod
    def largest(self, value: float) -> float:
        """The largest of the processes' numbers."""

    @abstractmethod
    def gather(self, rows: Tensor) -> Tensor:
        """The rows `(n_i, ...)` of all processes, one after the other, in each of them."""

    @abstractmethod
    def broadcast(self, value: Any) -> Any:
        """The first process's value, something JSON can hold, in each of them."""

    @abstractmethod
    def share(self, count: int) -> int:
        """How many of `count` rows of a draw are for this process."""

    def mean(self, values: Tensor, weight: Tensor | None = None) -> float:
        """The mean over the rows of all processes, in float64.

        Arguments:
            values: A number for each row, shape `(n,)`.
            weight: The rows' weights, shape `(n,)`; None where all count the same.
        """
        numbers = values.detach().to(torch.float64)
        if weight is None:
            weight = torch.ones_like(numbers)
        total = self.sum(torch.stack([(weight * numbers).sum(), weight.sum()]))
        return float(total[0] / total[1])


class Alone(World):
    """One process, which has all rows."""

    @property
    def is_first(self) -> bool:
        return True

    def sum(self, values: Tensor) -> Tensor:
        return values

    def largest(self, value: float) -> float:
        return value

    def gather(self, rows: Tensor) -> Tensor:
        return rows

    def broadcast(self, value: Any) -> Any:
        return value

    def share(self, count: int) -> int:
        return count

    def mean(self, values: Tensor, weight: Tensor | None = None) -> float:
        if weight is not None:
            return super().mean(values, weight)
        return float(values.detach().to(torch.float64).mean())


ALONE: World = Alone()
"""The world of a fit in one process."""

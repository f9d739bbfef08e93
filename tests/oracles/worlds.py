"""Several processes as threads of one: the same program in each, which meet at every verb."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from jkoflow.errors import JKOFlowError
from jkoflow.world import World

__all__ = ["run_together"]

R = TypeVar("R")


class ThreadWorld(World):
    """One of `size` threads that share a board.

    Arguments:
        rank: Number of the thread, from 0.
        size: Their number.
        board: What each has brought to the meeting.
        barrier: Where they wait for each other.
    """

    def __init__(self, rank: int, size: int, board: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.size, self._board, self._barrier = rank, size, board, barrier

    def _meet(self, value: Any) -> list[Any]:
        self._board[self.rank] = value
        self._barrier.wait(timeout=30)
        values = list(self._board)
        self._barrier.wait(timeout=30)
        return values

    def broadcast(self, value: Any) -> Any:
        return self._meet(value)[0]

    def broadcast_bytes(self, data: bytes) -> bytes:
        return self._meet(data)[0]

    def gather(self, rows: Tensor) -> Tensor:
        return torch.cat(self._meet(rows))

    def merge(self, parts: Tensor) -> Tensor:
        whole = {4: torch.int32, 8: torch.int64}[parts.element_size()]
        found = [part.view(whole) for part in self._meet(parts)]
        assert sum((part != 0).int() for part in found).le(1).all()
        return functools.reduce(torch.add, found).view(parts.dtype)

    def largest(self, value: float) -> float:
        return max(self._meet(value))

    def agree(self, error: JKOFlowError | None) -> None:
        for found in filter(None, self._meet(error)):
            raise found


def run_together(size: int, work: Callable[[ThreadWorld], R]) -> list[R]:
    """What each of `size` threads gets from `work`, which is given its world."""
    board, barrier, results, errors = [None] * size, threading.Barrier(size), [None] * size, []

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadWorld(rank, size, board, barrier))
        except BaseException as error:  # told by the thread that waits for them
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results  # type: ignore[return-value]  # each has one

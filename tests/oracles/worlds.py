"""Several processes for a test: threads of this one that meet at every verb, or forks over torch.distributed.

Threads are quicker, and show where a test fails; forks are what is used, and needed for what a thread may not
do while it waits for another, such as filling a `functools.cached_property` (before Python 3.12).
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import socket
import threading
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from jkoflow.errors import JKOFlowError
from jkoflow.world import World
from jkoflow.world.distributed import processes_of_torchrun

__all__ = ["ThreadWorld", "run_forks", "run_together"]

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


def run_forks(
    size: int, work: Callable[[World], R], *, timeout_seconds: float = 60.0
) -> tuple[list[int], list[R | None]]:
    """How each of `size` forks ended that did `work` in one world, 0 where nothing was raised; their results.

    Arguments:
        size: How many.
        work: What each does with its world; its result, in which there is no tensor, is sent as a pickle.
        timeout_seconds: How long they wait for each other.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(rank: int, result: Any) -> None:
        place = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_PORT": port}
        os.environ.update({"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in place.items()})
        with processes_of_torchrun(timeout_seconds=timeout_seconds) as world:
            result.send(work(world))

    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(size)]
    forks = [context.Process(target=run, args=(rank, pipe[1])) for rank, pipe in enumerate(pipes)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks with threads
        for fork in forks:
            fork.start()
    results: list[R | None] = []
    for (receiving, sending), fork in zip(pipes, forks, strict=True):
        sending.close()
        try:
            results.append(receiving.recv())
        except EOFError:  # it has ended without one
            results.append(None)
        fork.join()
    return [fork.exitcode or 0 for fork in forks], results

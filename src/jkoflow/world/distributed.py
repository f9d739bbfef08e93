"""The processes that `torchrun` starts, over torch.distributed: gloo between CPUs, NCCL between GPUs.

    RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT  ->  one group of processes

Values are sent as JSON, never as pickles. A process that is gone, or does not answer for ten minutes, ends
the others with one line. Source: the environment variables of torchrun, PyTorch's documentation of
torch.distributed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as torch_processes
from torch import Tensor

from jkoflow.errors import InputError, JKOFlowError, ProcessError, RunFolderError
from jkoflow.world.base import World

__all__ = ["Distributed", "processes_of_torchrun"]

_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The whole numbers of as many bytes: adding zeros to them loses no sign of a zero and no NaN."""

_ERRORS: dict[str, type[JKOFlowError]] = {"InputError": InputError, "RunFolderError": RunFolderError}
"""Errors that one process may have and all of them raise."""


class Distributed(World):
    """One of several processes, each of which runs the same program.

    Arguments:
        timeout_seconds: How long an answer of the others may take.

    The process group of torch.distributed has to be there.
    """

    def __init__(self, *, timeout_seconds: float) -> None:
        self.rank, self.size = torch_processes.get_rank(), torch_processes.get_world_size()
        self._timeout_seconds = timeout_seconds

    def broadcast(self, value: Any) -> Any:
        return json.loads(self.broadcast_bytes(json.dumps(value).encode()))

    def broadcast_bytes(self, data: bytes) -> bytes:
        length = torch.tensor([len(data)])
        self._together(lambda: torch_processes.broadcast(length, 0))
        sent = torch.empty(int(length), dtype=torch.uint8)
        if self.is_first and len(data):
            sent = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        self._together(lambda: torch_processes.broadcast(sent, 0))
        return sent.numpy().tobytes()

    def gather(self, rows: Tensor) -> Tensor:
        counts = torch.zeros(self.size, dtype=torch.int64)
        counts[self.rank] = len(rows)
        self._together(lambda: torch_processes.all_reduce(counts))
        gathered = rows.new_empty((int(counts.sum()), *rows.shape[1:]))
        for rank, part in enumerate(torch.split(gathered, counts.tolist())):
            if rank == self.rank:
                part.copy_(rows)
            if part.numel():
                self._together(partial(torch_processes.broadcast, part, rank))
        return gathered

    def merge(self, parts: Tensor) -> Tensor:
        whole = parts.contiguous().view(_WHOLE[parts.element_size()])
        self._together(lambda: torch_processes.all_reduce(whole))
        return whole.view(parts.dtype)

    def largest(self, value: float) -> float:
        found = torch.tensor([value], dtype=torch.float64)
        self._together(lambda: torch_processes.all_reduce(found, torch_processes.ReduceOp.MAX))
        return float(found)

    def agree(self, error: JKOFlowError | None) -> None:
        told = "" if error is None else json.dumps([type(error).__name__, str(error)])
        texts = self._texts(told)
        if error is not None and not any(texts[: self.rank]):
            raise error
        for text in filter(None, texts):
            kind, message = json.loads(text)
            raise _ERRORS.get(kind, JKOFlowError)(message)

    def _texts(self, text: str) -> list[str]:
        """The texts of all processes, in their order."""
        data = torch.frombuffer(bytearray(text.encode() + b"\n"), dtype=torch.uint8)
        return self.gather(data).numpy().tobytes().decode().split("\n")[: self.size]

    def _together(self, work: Callable[[], object]) -> None:
        """Do what all processes do at the same time.

        Raises:
            ProcessError: One of them is gone, or takes too long.
        """
        try:
            work()
        except RuntimeError as error:
            raise ProcessError(
                f"process {self.rank} of {self.size}: another process of this run has ended, or has not "
                f"answered for {self._timeout_seconds:g} seconds; start them again, a fit with --resume"
            ) from error


@contextmanager
def processes_of_torchrun(*, timeout_seconds: float = 600.0) -> Iterator[World]:
    """Join the processes that `torchrun` has started; they part again at the end, unless by an error.

    Arguments:
        timeout_seconds: How long the others may take to come, or to answer later.

    Raises:
        ProcessError: They do not come.
    """
    has_cuda = torch.cuda.is_available()
    if has_cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    try:
        torch_processes.init_process_group(
            "cpu:gloo,cuda:nccl" if has_cuda else "gloo", timeout=timedelta(seconds=timeout_seconds)
        )
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ProcessError(f"the processes of this run do not find each other ({reason})") from error
    yield Distributed(timeout_seconds=timeout_seconds)
    torch_processes.destroy_process_group()

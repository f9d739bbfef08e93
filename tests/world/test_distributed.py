"""Two processes of torch.distributed: each verb, and what is told when one of them is gone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from jkoflow.errors import InputError, ProcessError, RunFolderError
from jkoflow.world import World
from jkoflow.world.distributed import processes_of_torchrun

SECONDS = 30.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def run_processes(
    work: Callable[[World], object], *, size: int = 2, timeout_seconds: float = SECONDS
) -> list[int]:
    """How each of `size` forks ended that did `work` in one world: 0 where it raised nothing."""
    port = free_port()

    def run(rank: int) -> None:
        place = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_PORT": port}
        os.environ.update({"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in place.items()})
        with processes_of_torchrun(timeout_seconds=timeout_seconds) as world:
            work(world)

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=run, args=(rank,)) for rank in range(size)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks with threads
        for process in processes:
            process.start()
    for process in processes:
        process.join(SECONDS)
    ended = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return [-1 if status is None else status for status in ended]


def test_the_verbs_of_two_processes() -> None:
    numbers = torch.tensor([[0.0, -0.0, float("nan"), 1e-45], [2.0, 3.0, float("inf"), -1.0]])

    def work(world: World) -> None:
        rank = world.rank
        assert (world.size, world.is_first) == (2, rank == 0)
        assert world.broadcast({"a": [rank, 0.1, None]}) == {"a": [0, 0.1, None]}
        assert world.broadcast(float("inf") if rank else 1e-300) == 1e-300
        assert world.broadcast_bytes(bytes([rank, 7])) == b"\x00\x07"
        assert world.broadcast_bytes(b"") == b""
        rows = torch.arange(6.0).reshape(3, 2)
        assert torch.equal(world.gather(rows[:2] if rank == 0 else rows[2:]), rows)
        assert torch.equal(world.gather(rows if rank else rows[:0]), rows)
        assert torch.equal(world.gather(torch.tensor([rank > 0])), torch.tensor([False, True]))
        for dtype in (torch.float32, torch.float64):
            own = torch.zeros_like(numbers)
            own[rank] = numbers[rank]
            merged = world.merge(own.to(dtype))
            assert merged.dtype == dtype
            assert torch.equal(merged.nan_to_num(nan=9.0), numbers.to(dtype).nan_to_num(nan=9.0))
            assert torch.equal(merged.signbit(), numbers.to(dtype).signbit())
        assert world.largest(-3.5 - rank) == -3.5
        divided = world.divided(
            3, lambda number: torch.full((number + 1,), float(number)), like=torch.ones(1)
        )
        assert divided.tolist() == [0, 1, 1, 2, 2, 2]

    assert run_processes(work) == [0, 0]


def test_an_error_of_one_process_is_raised_in_both() -> None:
    def work(world: World) -> None:
        world.agree(None)
        with pytest.raises(RunFolderError, match=r"^first$"):
            world.agree(RunFolderError("first") if world.is_first else InputError("second\nline"))
        with pytest.raises(InputError, match=r"^second\nline$"):
            world.agree(None if world.is_first else InputError("second\nline"))

    assert run_processes(work) == [0, 0]


@pytest.mark.parametrize("gone", [0, 1])
def test_a_process_that_is_killed_ends_the_other(gone: int) -> None:
    def work(world: World) -> None:
        if world.rank == gone:
            os.kill(os.getpid(), signal.SIGKILL)
        with pytest.raises(ProcessError, match="another process of this run has ended"):
            for _ in range(3):
                world.gather(torch.ones(2))
        os._exit(7)

    expected = [7, 7]
    expected[gone] = -signal.SIGKILL
    assert run_processes(work) == expected


def test_a_process_that_does_not_answer_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    def work(world: World) -> None:
        if world.rank == 1:
            while not (tmp_path / "told").exists():
                time.sleep(0.05)
            os._exit(0)
        with pytest.raises(ProcessError, match="has not answered for 1 seconds"):
            world.gather(torch.ones(2))
        (tmp_path / "told").touch()
        os._exit(7)

    assert run_processes(work, timeout_seconds=1.0) == [7, 0]

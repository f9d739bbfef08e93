"""Two processes of torch.distributed: each verb, and what is told when one of them is gone."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from jkoflow.errors import InputError, ProcessError, RunFolderError
from jkoflow.world import World
from oracles.worlds import run_forks


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

    assert run_forks(2, work)[0] == [0, 0]


def test_an_error_of_one_process_is_raised_in_both() -> None:
    def work(world: World) -> None:
        world.agree(None)
        with pytest.raises(RunFolderError, match=r"^first$"):
            world.agree(RunFolderError("first") if world.is_first else InputError("second\nline"))
        with pytest.raises(InputError, match=r"^second\nline$"):
            world.agree(None if world.is_first else InputError("second\nline"))

    assert run_forks(2, work)[0] == [0, 0]


@pytest.mark.parametrize("gone", [0, 1])
def test_a_process_that_is_killed_ends_the_other(gone: int) -> None:
    def work(world: World) -> None:
        world.gather(torch.ones(1))  # both have met before one of them goes
        if world.rank == gone:
            os.kill(os.getpid(), signal.SIGKILL)
        with pytest.raises(ProcessError, match="another process of this run has ended"):
            for _ in range(3):
                world.gather(torch.ones(2))
        os._exit(7)

    expected = [7, 7]
    expected[gone] = -signal.SIGKILL
    assert run_forks(2, work)[0] == expected


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

    assert run_forks(2, work, timeout_seconds=1.0)[0] == [7, 0]

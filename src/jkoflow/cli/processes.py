"""The processes that run a verb together: one, or those that `torchrun` has started.

    torchrun --nproc-per-node N -m jkoflow fit | sample | score ...

Source: the environment variables of torchrun, PyTorch's documentation of torch.distributed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jkoflow.errors import InputError

if TYPE_CHECKING:
    from jkoflow.world import World

__all__ = ["process_number", "processes", "require_one_process"]


def process_number() -> int:
    """Number of this process among those of the verb, from 0."""
    return int(os.environ.get("RANK", "0")) if _count() > 1 else 0


@contextmanager
def processes() -> Iterator[World]:
    """Yield the processes of this verb.

    Raises:
        ProcessError: `torchrun` has started some that do not find each other.
    """
    # not at the top: help need not wait for torch, and one process not for what several need
    if _count() == 1:
        from jkoflow.world import ALONE

        yield ALONE
        return
    from jkoflow.world.distributed import processes_of_torchrun

    with processes_of_torchrun() as world:
        yield world


def require_one_process(verb: str) -> None:
    """Refuse a verb that several processes would do several times.

    Raises:
        InputError: There are several.
    """
    if _count() > 1:
        raise InputError(
            f"{verb}: expected one process, got {_count()} of torchrun, which is for fit, sample and score; "
            f"run jkoflow {verb} by itself"
        )


def _count() -> int:
    """How many processes there are."""
    if not os.environ.get("TORCHELASTIC_RUN_ID"):
        return 1
    return int(os.environ.get("WORLD_SIZE", "1"))

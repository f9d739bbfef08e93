"""Kills a copy of this process at its k-th touch of the disk, for every k: what is left has to be usable.

The copy is a fork. It dies by SIGKILL just before it opens, renames, links, makes or removes something, and
in the middle of a write, so that nothing of it cleans up. The system keeps what a killed process wrote, so
that nothing has to be synced here; a loss of power cannot be played.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import NoReturn

EVENTS = {"open", "os.rename", "os.link", "os.mkdir", "os.rmdir", "os.remove", "os.truncate", "os.chmod"}


def unsynced(descriptor: int) -> None:
    """Stand in for `os.fsync` where a test runs through thousands of writes."""
    del descriptor


def run_in_fork(work: Callable[[], object]) -> int:
    """Run `work` in a fork; return how it ended: 0, 1 after an exception, or minus the signal's number."""
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks with threads
        process = os.fork()
    if process == 0:
        _work_and_exit(work)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def kill_points(work: Callable[[], object], *, every: int = 1) -> Iterator[int]:
    """Yield k when a fork that ran `work` was killed at its k-th touch of the disk, until one gets through.

    Arguments:
        work: What is done in the fork.
        every: 1 for all points, m for points 1, 1 + m, 1 + 2 m and so on.
    """
    for point in itertools.count(1, every):
        status = run_in_fork(lambda at=point: _dying_at(at, work))
        assert status in (0, -signal.SIGKILL), f"status {status} at point {point}"
        if status == 0:
            return
        yield point


def _work_and_exit(work: Callable[[], object]) -> NoReturn:
    status = 1
    try:
        work()
        status = 0
    except BaseException:  # nothing may leave the fork
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _dying_at(point: int, work: Callable[[], object]) -> None:
    left = point

    def touch() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event in EVENTS and not (event == "open" and _is_for_reading(arguments)):
            touch()

    plain_write = os.write

    def write(descriptor: int, data: bytes) -> int:
        written = plain_write(descriptor, bytes(data)[: max(1, len(data) // 2)])
        touch()
        return written

    os.write = write  # in the fork alone
    os.fsync = unsynced
    sys.addaudithook(audit)
    work()


def _is_for_reading(arguments: tuple[object, ...]) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)

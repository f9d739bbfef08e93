"""How much memory there is, so that what cannot fit is refused before anything has grown.

    available = min over (system, control groups, address space) of limit - in use

Source: proc(5), MemAvailable; the kernel's documentation of control groups, memory.max and memory.current;
POSIX.1-2017, getrlimit().
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from jkoflow.errors import InputError

__all__ = ["available_memory", "format_bytes", "require_memory"]


def require_memory(n_bytes: int, what: str, *, remedy: str) -> None:
    """Refuse what needs more memory than there is.

    Arguments:
        n_bytes: How much it needs.
        what: What it is, for the message: the argument, with what was expected and what came.
        remedy: What to do instead.

    Raises:
        InputError: There is less; nothing is said where the system does not tell.
    """
    available = available_memory()
    if available is not None and n_bytes > available:
        raise InputError(
            f"{what}, for which about {format_bytes(n_bytes)} of memory are needed and "
            f"{format_bytes(available)} are free; {remedy}"
        )


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still take without swapping; None where the system does not tell.

    Arguments:
        root: Where `proc` and `sys` are.
    """
    found = [*_of_system(root), *_of_control_groups(root), *_of_address_space(root)]
    return max(0, min(found)) if found else None


def format_bytes(n_bytes: int) -> str:
    """Bytes in the largest unit of which there is at least one: 1,234,000 is 1.2 MB."""
    units = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
    power = min(len(units) - 1, (len(str(n_bytes)) - 1) // 3)
    whole, rest = divmod(n_bytes, 1000**power)
    return f"{whole:,}{f'.{10 * rest // 1000**power}' if power and whole < 100 else ''} {units[power]}"


def _of_system(root: Path) -> Iterator[int]:
    with suppress(OSError):
        told = re.search(r"^MemAvailable:\s+(\d+) kB", (root / "proc/meminfo").read_text(), re.MULTILINE)
        if told:
            yield 1024 * int(told[1])
            return
    with suppress(OSError, ValueError, AttributeError):  # macOS tells the whole; Windows has no sysconf
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _of_control_groups(root: Path) -> Iterator[int]:
    """What each group of this process, and each above it, leaves; cached files count as free."""
    with suppress(OSError):
        entries = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
        for _, controllers, group in entries:
            mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
            names = ("memory.max", "memory.current")
            if controllers:
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            if not controllers or "memory" in controllers.split(","):
                inner = mount / group.lstrip("/")
                for folder in (inner, *inner.parents):
                    yield from _left(folder, *names)
                    if folder == mount:
                        break


def _left(folder: Path, limit: str, usage: str) -> Iterator[int]:
    with suppress(OSError, ValueError):  # no such group here, or "max"
        most = int((folder / limit).read_text())
        # version 1 tells the file cache of the group alone, and as "total" with the groups below
        cached = re.findall(r"^(?:total_)?inactive_file (\d+)", _text(folder / "memory.stat"), re.MULTILINE)
        yield most - int((folder / usage).read_text()) + max(map(int, cached), default=0)


def _of_address_space(root: Path) -> Iterator[int]:
    with suppress(ImportError, OSError, ValueError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            pages = int((root / "proc/self/statm").read_text().split()[0])
            yield limit - pages * resource.getpagesize()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""

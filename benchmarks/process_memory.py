"""Memory of this process, MB, as the system tells it.

On Linux the peak is `VmHWM` and not `ru_maxrss`, which a process inherits from the one that it was started
from: a large parent would hide what a child adds.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

__all__ = ["anonymous_mb", "peak_mb"]

_STATUS = Path("/proc/self/status")


def peak_mb() -> float:
    """Largest resident set of this process so far, MB."""
    if _STATUS.exists():
        return _told_mb("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def anonymous_mb() -> float:
    """`RssAnon` of this process, MB: what no file stands for. Linux only."""
    return _told_mb("RssAnon")


def _told_mb(name: str) -> float:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 2**10
    raise OSError(f"{_STATUS}: no {name}, which Linux has since 4.5")

"""The exit statuses that the command line sets itself; those of errors are with the errors.

    0 done      1 a claim fails      70 a fault of jkoflow      2, 3, 4: `jkoflow.errors`
    130, 143, 129 interrupted by Ctrl-C, SIGTERM, SIGHUP

Source: ours; 70 is EX_SOFTWARE of BSD's sysexits.h, 130 is 128 + SIGINT, and so are the others.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["ExitStatus"]


class ExitStatus(IntEnum):
    """How a verb ended, where no `JKOFlowError` says it."""

    DONE = 0
    CLAIM_FAILS = 1
    FAULT = 70
    INTERRUPTED = 130

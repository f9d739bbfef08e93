"""Lines on the terminal: results on stdout, everything else on stderr; a reader that left stops nothing.

    say: stdout, what was asked for        tell: stderr, progress and errors

Of several processes the first one speaks.

Source: POSIX.1-2017, write(): EPIPE where the reading end is closed, ENOSPC where the disk is full.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO

from jkoflow.cli.processes import process_number
from jkoflow.storage.files import visible, write_error

__all__ = ["flush", "hint", "say", "tell"]


def say(line: str, *, colour: str = "") -> None:
    """Print a line on stdout; what acts in a name, such as an escape sequence, is shown and does not act.

    Arguments:
        line: What is printed.
        colour: Its code of ECMA-48, such as "32", where a person looks at a terminal; "" for none.

    Raises:
        RunFolderError: stdout is a file that cannot be written.
    """
    if process_number():
        return
    try:
        print(_coloured(visible(line), colour), flush=True)
    except BrokenPipeError:
        _silence(sys.stdout)
    except OSError as error:
        _silence(sys.stdout)
        raise write_error("standard output", error) from error


def _coloured(line: str, colour: str) -> str:
    """The line in its colour where stdout is a terminal whose user wants colours (no-color.org)."""
    if not colour or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return line
    return f"\033[{colour}m{line}\033[0m"


def tell(line: str, *, always: bool = False) -> None:
    """Print a line on stderr, if anybody listens; shown as `say` does.

    Arguments:
        line: What is printed.
        always: Whether a process other than the first prints it too.
    """
    if process_number() and not always:
        return
    try:
        print(visible(line), file=sys.stderr, flush=True)
    except OSError:
        _silence(sys.stderr)


def hint(line: str) -> None:
    """Print a line on stderr for a person who waits; a log has no use for it."""
    if sys.stderr.isatty():
        tell(line)


def flush() -> None:
    """Write out what is left, so that the interpreter finds nothing to complain about when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _silence(stream)


def _silence(stream: TextIO) -> None:
    """Send what is still to be written to nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)

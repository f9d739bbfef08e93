"""Runs one verb and turns what goes wrong into one line on stderr and an exit status.

    0 done      1 a claim fails, under --strict      2 usage or input      3 numerical
    4 run folder or disk, or another process is gone      130, 143, 129 interrupted by Ctrl-C, SIGTERM, SIGHUP
    70 a fault of jkoflow itself (EX_SOFTWARE of BSD's sysexits.h)

Source: ours; `jkoflow --help`.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence

from jkoflow.cli.parser import build_parser
from jkoflow.cli.processes import process_number
from jkoflow.cli.signals import Ending, ended_by_signals
from jkoflow.cli.status import ExitStatus
from jkoflow.cli.terminal import flush, tell
from jkoflow.errors import InputError, JKOFlowError, NumericalError, RunFolderError
from jkoflow.storage.files import write_error

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `jkoflow` with `arguments`, those of the process by default; return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    with ended_by_signals() as ending:
        return _main(given, ending)


def _main(given: Sequence[str], ending: Ending) -> int:
    debug = "--debug" in given
    try:
        with warnings.catch_warnings():
            if not debug:
                warnings.simplefilter(
                    "ignore"
                )  # of torch and its like; what a user must know is in the summary
            return _run(given)
    except KeyboardInterrupt as interruption:
        left = str(interruption) or "interrupted; every file is whole, or as it was"
        by_whom = f"process {process_number()}: " if process_number() else ""
        line = f"{by_whom}{ending.prefix}{left}"
        return _tell(interruption, line, ending.status, debug=debug, is_common=ending.by is None)
    except JKOFlowError as error:
        is_common = isinstance(error, InputError | NumericalError | RunFolderError)
        return _tell(error, str(error), error.exit_status, debug=debug, is_common=is_common)
    except OSError as error:
        refused = write_error(error.filename or os.curdir, error)
        return _tell(error, str(refused), refused.exit_status, debug=debug)
    except Exception as error:  # noqa: BLE001  (the last one to catch it)
        line = (
            f"this is a fault of jkoflow, {type(error).__name__}: {error}; please report it, with the "
            "traceback that --debug shows"
        )
        return _tell(error, line, ExitStatus.FAULT, debug=debug)
    finally:
        flush()


def _run(given: Sequence[str]) -> int:
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without "±" is no reason to fail
    try:
        options = build_parser().parse_args(given)
    except SystemExit as end:  # after --help and --version; errors raise InputError
        return int(end.code or 0)
    return int(options.run_verb(options))


def _tell(error: BaseException, line: str, status: int, *, debug: bool, is_common: bool = False) -> int:
    """Tell of an error; where it is common to several processes the first of them tells it for all."""
    if debug:
        traceback.print_exception(error)
    tell(f"jkoflow: {' '.join(line.split())}", always=not is_common)
    return status

"""`jkoflow report`: one HTML page about a finished run; it reads run and table and changes neither."""

from __future__ import annotations

import argparse
from pathlib import Path

from jkoflow.cli.terminal import say, tell
from jkoflow.report import render_report
from jkoflow.report.gather import gather_report
from jkoflow.runs import RunFolder
from jkoflow.storage import shown, validate_new_output, write_bytes_atomic

__all__ = ["DESCRIPTION", "EPILOG", "add_options", "run", "write_report"]

DESCRIPTION = """\
Write one HTML page about the finished run in RUN: samples beside real rows, loss terms and held-out NLL of
each block, transport, and how normal the noise is that held-out rows are pushed to.

The table is read again, where run.json says it is. If it is gone or has changed, the page is made without
real rows, and says so.
"""

EPILOG = """\
examples:
  jkoflow report run
  jkoflow report run -o page.html --overwrite

what appears:
  FILE, by default RUN/report.html, complete in itself: it loads nothing from anywhere
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("run", metavar="RUN", help="folder of a finished run")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="where the page goes (default RUN/report.html)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")


def run(options: argparse.Namespace) -> None:
    """Write the page."""
    with RunFolder.open(options.run, "read") as folder:
        folder.require_finished()
        output = folder.path / "report.html" if options.output is None else Path(options.output)
        write_report(folder, output, overwrite=options.overwrite)


def write_report(folder: RunFolder, output: Path, *, overwrite: bool) -> None:
    """Write the page about an open, finished run."""
    validate_new_output(output, overwrite=overwrite)
    data, missing = gather_report(folder)
    write_bytes_atomic(output, render_report(data).encode(), overwrite=overwrite)
    if missing:
        tell(f"note: {missing}")
    say(f"{'report':<16}{shown(output)}")

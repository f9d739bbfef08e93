"""What `jkoflow report` takes, and what it tells about itself."""

from __future__ import annotations

import argparse

__all__ = ["DESCRIPTION", "EPILOG", "add_options"]

DESCRIPTION = """\
Write one HTML page about the finished run in RUN: samples beside real rows, loss terms and validation NLL of
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

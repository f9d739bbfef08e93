"""What `jkoflow certify` takes, and what it tells about itself."""

from __future__ import annotations

import argparse

__all__ = ["DESCRIPTION", "EPILOG", "add_options"]

DESCRIPTION = """\
Tell how far the model of RUN (a run folder or a model folder) is from the data, and how one knows.

The rows that `fit` set aside are read again and judge the model; with --data, rows of your own do, which
must be no part of the table of the fit. First comes one sentence (good; usable for what; do not use, and
why; nothing is known), then the bracket of KL(data‖model) with what it means for a classifier, one command to
go on with, and claims with a verdict each: holds, fails, undecided where the rows do not decide; numbers
without a bound are told. Without rows many claims are undecided, and the notes say why there are none.
"""

EPILOG = """\
examples:
  jkoflow certify run
  jkoflow certify run --data fresh_rows.csv --strict      for a script, see --strict
  jkoflow certify run/model --data fresh_rows.csv -o certificates.json

TABLE needs the columns that the model was fitted to, and those of --context where it has them. 100 rows are
the least that the bracket can be made of, some thousands make it narrow.

what appears:
  FILE, by default RUN/certificates.json: what was printed, in full; `jkoflow report` shows it. For a model
  folder alone nothing is written without -o.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("model", metavar="RUN", help="folder of a finished run, or model folder")
    parser.add_argument("--data", metavar="TABLE", help="rows to judge by, which no part of the fit used")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit with status 1 where a claim fails, the model is not to be used, or nothing is known of it",
    )
    parser.add_argument(
        "--allow-undecided", action="store_true", help="let --strict pass where nothing is known of the model"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="where the certificates go (default RUN/certificates.json)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")

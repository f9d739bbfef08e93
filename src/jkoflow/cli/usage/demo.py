"""What `jkoflow demo` takes, and what it tells about itself."""

from __future__ import annotations

import argparse

__all__ = ["DESCRIPTION", "EPILOG", "add_options"]

DESCRIPTION = """\
Fit a flow to the 1,797 handwritten digits that scikit-learn ships, certify it by the tenth of them that the
fit set aside, and leave model, samples, certificates and report in RUN.

It takes about eight minutes, five of them for the certificate, and needs no network. A second run replaces
the first.
"""

EPILOG = """\
example:
  jkoflow demo -o runs/demo

what appears in RUN, beside what `jkoflow fit --help` lists:
  digits.csv     the table that was learned: 64 grey levels a row, each with uniform noise of one level
  samples.csv    1,000 new digits
  certificates.json    how far the model is from the digits, and how one knows
  report.html    first whether to use it, then generated digits beside real ones, and how the fit went
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "-o", "--output", metavar="RUN", default="runs/demo", help="folder of the run (default runs/demo)"
    )

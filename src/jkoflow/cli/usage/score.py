"""What `jkoflow score` takes, and what it tells about itself."""

from __future__ import annotations

import argparse

__all__ = ["DESCRIPTION", "EPILOG", "add_options"]

DESCRIPTION = """\
Write the log-likelihood of each row of TABLE under the model of RUN (a run folder or a model folder) to FILE.

The numbers are natural logarithms of densities in the units of the table, in the order of its rows, and the
same every time. Only differences mean something by themselves: a larger number is a more likely row.
"""

EPILOG = """\
examples:
  jkoflow score run table.csv -o scores.csv
  jkoflow score run new_rows.parquet -o scores.npy

TABLE needs the columns that the model was fitted to, and those of --context where it has them; columns with
names may be in any order. A row of a dequantised column is scored at the middle of its cell.

what appears:
  FILE, by its suffix: .csv, .tsv, .parquet with one column log_prob; .npy, .npz (as x) of shape (n,), float64
  A row beyond the range of the dtype has -inf; a score that is no number is exit status 3, FILE is written.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("model", metavar="RUN", help="run folder or model folder")
    parser.add_argument("table", metavar="TABLE", help=".csv, .tsv, .parquet, .npy or .npz")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="where the numbers go")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")

"""What `jkoflow sample` takes, and what it tells about itself."""

from __future__ import annotations

import argparse

__all__ = ["DESCRIPTION", "EPILOG", "add_options"]

DESCRIPTION = """\
Draw N new rows from the model of RUN (a run folder or a model folder) and write them to FILE.

The columns are those of the table, in its units. Rows of columns that were dequantised are not rounded back.
"""

EPILOG = """\
examples:
  jkoflow sample run -n 1000 -o new_rows.csv
  jkoflow sample run -n 1000 -o new_rows.parquet --seed 7      the same seed gives the same rows; fewer rows
                                                               are the first of more
  jkoflow sample run -n 100 -o rows.csv --context given.csv    a model of some columns given others: a table
                                                               of the given ones, with 1 row or N

what appears:
  FILE, by its suffix: .csv, .tsv, .parquet with the columns' names; .npy, .npz (as x) without
  A name that begins with =, +, - or @ stands behind an apostrophe in .csv and .tsv, or it would be a formula.
  Rows whose round trip through the model misses 1e-4 (1e-8 in float64) standard deviations are counted on
  stderr, never dropped.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("model", metavar="RUN", help="run folder or model folder")
    parser.add_argument("-n", "--rows", metavar="N", type=int, required=True, help="how many rows")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="where the rows go")
    parser.add_argument("--seed", metavar="N", type=int, help="seed of the rows; a fresh one by default")
    parser.add_argument("--context", metavar="FILE", help="table of the columns to condition on")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")

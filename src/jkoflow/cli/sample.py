"""`jkoflow sample`: new rows from a model, with the round-trip error of each checked.

    x = T_1^{-1}(... T_N^{-1}(y)),  y ~ N(0, I);     |T_N(...T_1(x)) - y| <= tolerance, or the row is told of

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (23).
"""

from __future__ import annotations

import argparse

import numpy as np

from jkoflow.cli.models import open_model
from jkoflow.cli.terminal import say, tell
from jkoflow.data import check_output, read_table, write_table
from jkoflow.storage import shown

__all__ = ["DESCRIPTION", "EPILOG", "ROUND_TRIP_TOLERANCE", "add_options", "missed_line", "run"]

ROUND_TRIP_TOLERANCE = {"float32": 1e-4, "float64": 1e-8}
"""Largest round-trip error of a sample that is not told of, standardised units."""

_LARGEST_SEED = 2**31 - 1

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


def run(options: argparse.Namespace) -> None:
    """Draw rows and write them."""
    check_output(options.output, overwrite=options.overwrite)
    seed = int(np.random.default_rng().integers(_LARGEST_SEED)) if options.seed is None else options.seed
    with open_model(options.model) as model:
        context = None if options.context is None else read_table(options.context)
        rows, errors = model.sample(options.rows, seed=seed, context=context)
    write_table(options.output, rows, model.schema.names, overwrite=options.overwrite)
    if line := missed_line(errors, model.settings.dtype):
        tell(line)
    say(f"{shown(options.output)}: {len(rows):,} rows of {rows.shape[1]:,} columns, seed {seed}")


def missed_line(errors: np.ndarray, dtype: str) -> str:
    """One line on the rows that missed the round-trip tolerance; empty where none did."""
    tolerance = ROUND_TRIP_TOLERANCE[dtype]
    missed = ~(errors <= tolerance)  # a NaN has missed it too
    if not missed.any():
        return ""
    return (
        f"note: {int(missed.sum()):,} of {len(errors):,} rows ({missed.mean():.2%}) missed the round-trip "
        f"tolerance of {tolerance:g} standard deviations, the largest error is {errors.max():.1e}"
    )

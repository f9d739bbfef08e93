"""`jkoflow score`: the log-density of each row of a table.

    log q_0(x) = log N(T(z); 0, I) + log|det dT(z)| - sum log s,   z = (x - m)/s        (nats, data units)

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (38).
"""

from __future__ import annotations

import argparse

import numpy as np

from jkoflow.cli.models import open_model
from jkoflow.cli.terminal import say, tell
from jkoflow.data import check_output, read_table, write_table
from jkoflow.storage import shown

__all__ = ["DESCRIPTION", "EPILOG", "add_options", "run"]

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
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("model", metavar="RUN", help="run folder or model folder")
    parser.add_argument("table", metavar="TABLE", help=".csv, .tsv, .parquet, .npy or .npz")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="where the numbers go")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")


def run(options: argparse.Namespace) -> None:
    """Score rows and write the numbers."""
    check_output(options.output, overwrite=options.overwrite)
    with open_model(options.model) as model:
        table, context = read_table(options.table), None
        if model.context_schema is not None:
            given = model.context_schema.names
            table, context = table.drop(given), table.select(given)
        log_prob = model.log_prob(model.schema.check(table), context)
    write_table(options.output, log_prob, ["log_prob"], overwrite=options.overwrite)
    infinite = int(np.count_nonzero(~np.isfinite(log_prob)))
    if infinite:
        tell(f"note: {infinite:,} of {len(log_prob):,} rows lie so far out that their density is 0 in floats")
    finite = log_prob[np.isfinite(log_prob)]
    mean = f", mean {finite.mean():.4f} nats" if len(finite) else ""
    say(f"{shown(options.output)}: log-likelihoods of {len(log_prob):,} rows{mean}")

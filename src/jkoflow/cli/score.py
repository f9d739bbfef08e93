"""`jkoflow score`: the log-density of each row of a table.

    log q_0(x) = log N(T(z); 0, I) + log|det dT(z)| - sum log s,   z = (x - m)/s        (nats, data units)

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (38).
"""

from __future__ import annotations

import argparse

import numpy as np

from jkoflow.cli.models import open_model
from jkoflow.cli.processes import processes
from jkoflow.cli.terminal import say, tell
from jkoflow.data import check_output, read_shared_table, write_table
from jkoflow.errors import NumericalError
from jkoflow.storage import shown
from jkoflow.storage.chunks import PUSH_ROWS

__all__ = ["run"]


def run(options: argparse.Namespace) -> None:
    """Score rows and write the numbers."""
    check_output(options.output, overwrite=options.overwrite)
    with processes() as world, open_model(options.model) as model:
        table, context = read_shared_table(options.table, world, unit=PUSH_ROWS), None
        if model.context_schema is not None:
            given = model.context_schema.names
            table, context = table.drop(given), table.select(given)
        log_prob = model.log_prob(model.schema.check(table), context, world=world)
        if world.is_first:
            write_table(options.output, log_prob, ["log_prob"], overwrite=options.overwrite)
    finite = log_prob[np.isfinite(log_prob)]
    mean = f", mean {finite.mean():.4f} nats" if len(finite) else ""
    if zero := int(np.count_nonzero(np.isneginf(log_prob))):
        tell(
            f"note: {zero:,} of {len(log_prob):,} rows lie so far from the table of the fit that their "
            "density is rounded to 0, and have no finite log-likelihood"
        )
    say(f"{shown(options.output)}: log-likelihoods of {len(log_prob):,} rows{mean}")
    _require_numbers(log_prob, options.output)


def _require_numbers(log_prob: np.ndarray, output: str) -> None:
    """Refuse, once what there is has been written, log-likelihoods that are no numbers, or infinite ones.

    Raises:
        NumericalError: There are some.
    """
    wrong = np.flatnonzero(np.isnan(log_prob) | np.isposinf(log_prob))
    if len(wrong):
        raise NumericalError(
            f"{len(wrong):,} of {len(log_prob):,} rows have no log-likelihood that is a number, row "
            f"{wrong[0] + 1} first; {shown(output)} holds those of the others",
            remedy="leave those rows out, or fit again with dtype = 'float64'",
        )

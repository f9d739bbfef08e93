"""`jkoflow sample`: new rows from a model, with the round-trip error of each checked.

    x = T_1^{-1}(... T_N^{-1}(y)),  y ~ N(0, I);     |T_N(...T_1(x)) - y| <= tolerance, or the row is told of

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (23).
"""

from __future__ import annotations

import argparse

import numpy as np

from jkoflow.cli.models import open_model
from jkoflow.cli.processes import processes
from jkoflow.cli.terminal import say, tell
from jkoflow.data import check_output, names_guarded, read_table, write_table
from jkoflow.flow import round_trip_tolerance
from jkoflow.runtime import resolve_dtype
from jkoflow.storage import shown

__all__ = ["missed_line", "run"]


def run(options: argparse.Namespace) -> None:
    """Draw rows and write them."""
    check_output(options.output, overwrite=options.overwrite)
    with processes() as world, open_model(options.model) as model:
        seed = world.broadcast(_fresh_seed() if options.seed is None else options.seed)
        context = None if options.context is None else read_table(options.context)
        rows, errors = model.sample(options.rows, seed=seed, context=context, world=world)
        # while the run is held: what is half-written in it is then nobody else's to clear
        if world.is_first:
            write_table(options.output, rows, model.schema.names, overwrite=options.overwrite)
    told = (missed_line(errors, model.settings.dtype), names_guarded(options.output, model.schema.names))
    for line in filter(None, told):
        tell(line)
    say(f"{shown(options.output)}: {len(rows):,} rows of {rows.shape[1]:,} columns, seed {seed}")


def _fresh_seed(*, end: int = 2**31 - 1) -> int:
    """A seed below `end` that differs from call to call, short enough to be typed again."""
    return int(np.random.default_rng().integers(end))


def missed_line(errors: np.ndarray, dtype: str) -> str:
    """One line on the rows that missed the round-trip tolerance; empty where none did."""
    tolerance = round_trip_tolerance(resolve_dtype(dtype))
    missed = ~(errors <= tolerance)  # a NaN has missed it too
    if not missed.any():
        return ""
    return (
        f"note: {int(missed.sum()):,} of {len(errors):,} rows ({missed.mean():.2%}) missed the round-trip "
        f"tolerance of {tolerance:g} standard deviations, the largest error is {errors.max():.1e}"
    )

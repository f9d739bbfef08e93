"""How much of a table one page shows, so that a reader finds the end of it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """The most of everything on the page.

    Arguments:
        marginals: Columns in the table of means and standard deviations.
        histograms: Columns with a histogram.
        pair_columns: Columns that are drawn against each other, each pair in two panels.
        points: Rows in a scatter plot or a quantile plot, drawn at random from those there are.
    """

    marginals: int = 16
    histograms: int = 12
    pair_columns: int = 4
    points: int = 1500

"""Fitting a table: the split, the rows as a fit sees them, the record that a run keeps, and the results.

Source: the data flow of Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, section 3.1.
"""

from __future__ import annotations

from jkoflow.fitting.fit_table import Fitted, check_options, fit_table
from jkoflow.fitting.record import Progress
from jkoflow.fitting.rows import HeldOutRows, encode_rows
from jkoflow.fitting.split import (
    Split,
    describe,
    described_weights,
    recognise_by,
    split_of_run,
    split_rows,
)

__all__ = [
    "Fitted",
    "HeldOutRows",
    "Progress",
    "Split",
    "check_options",
    "describe",
    "described_weights",
    "encode_rows",
    "fit_table",
    "recognise_by",
    "split_of_run",
    "split_rows",
]

"""A column of real numbers: standardised, and nothing else.

    z = (x - m) / s,   log|dz/dx| = -log s

Source: `jkoflow.data.columns.base` with f(x) = x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jkoflow.data.columns.base import Column, ColumnSample, Finding
from jkoflow.data.trainable import column_ranges
from jkoflow.data.weights import mean_and_deviation

__all__ = ["ContinuousColumn"]


@dataclass(frozen=True)
class ContinuousColumn(Column):
    """Any column of numbers; see `Column` for the arguments."""

    kind: ClassVar[str] = "continuous"

    @classmethod
    def read(cls, sample: ColumnSample) -> Finding:
        """The column; one that is constant in the rows of the fit has scale 1."""
        location, scale = mean_and_deviation(sample.seen, sample.weight)
        varies = column_ranges(sample.seen[:, None])[0] > 0.0
        return Finding(cls(sample.name, location, scale if varies else 1.0))

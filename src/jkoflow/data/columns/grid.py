"""A column that was recorded in steps: it gets uniform noise of one step, so that it has a density.

    z = (y - m) / s,   y = x + h (u - 1/2),   u ~ U[0, 1),   s² = Var(x) + h²/12

Source: Theis, van den Oord & Bethge (2016), arXiv 1511.01844, section 3.1; when a column is on a grid, and in
which step h, is said by `jkoflow.data.dequantise`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jkoflow.data.columns.base import Column, ColumnSample, Finding, Note, Reals
from jkoflow.data.dequantise import GridRules, Measurement, finest_step, measure
from jkoflow.data.resolution import is_crowded
from jkoflow.data.weights import mean_and_deviation

__all__ = ["GridColumn"]

_DEQUANTISED = (
    "dequantised {count} of {dim} columns, which are integer, tied or on a grid; "
    "log_prob is that of the dequantised data"
)
_CROWDED = (
    "dequantised {count} of {dim} columns, whose values lie closer than float64 can tell apart beside the "
    "range of all; log_prob is that of the dequantised data, and a logarithm of the column may serve better"
)
_PEAKED = "one value is repeated on a fine grid, so that log_prob is dominated by it"


@dataclass(frozen=True)
class GridColumn(Column):
    """A column of integers, of values on a grid, or of tied values.

    Arguments:
        name: See `Column`.
        location: Mean m, data units.
        scale: Standard deviation s of the dequantised values, data units.
        step: Measuring step h > 0, data units.
    """

    step: float

    kind: ClassVar[str] = "grid"
    is_dequantised: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step <= 0.0:
            raise ValueError(f"column {self.name} has a step that is not positive")

    @classmethod
    def read(cls, sample: ColumnSample) -> Finding | None:
        """The column, or None where its values are neither on a grid nor tied."""
        rules = GridRules()
        measured = measure(sample.distinct, integer=sample.integer, rules=rules)
        if measured is None:
            return cls._read_crowded(sample, rules)
        location, scale = mean_and_deviation(sample.seen, sample.weight, step=measured.step)
        column = cls(sample.name, location, scale, measured.step)
        notes = [Note(_DEQUANTISED, f"{column.name} (step {column.step:.4g})")]
        if _is_peaked(column, measured, rules):
            share = f"{measured.largest_share:.1%} of the rows within {column.step:.3g}"
            notes.append(Note(_PEAKED, f"{column.name} ({share})"))
        return Finding(column, tuple(notes))

    @classmethod
    def _read_crowded(cls, sample: ColumnSample, rules: GridRules) -> Finding | None:
        """The column where standardised values are tied in float64, which alone leaves them no density."""
        location, scale = mean_and_deviation(sample.seen, sample.weight)
        if not scale > 0 or not is_crowded(sample.distinct, cls(sample.name, location, scale, scale), float):
            return None
        step = finest_step(sample.distinct, rules=rules)
        location, scale = mean_and_deviation(sample.seen, sample.weight, step=step)
        note = Note(_CROWDED, f"{sample.name} (step {step:.4g})")
        return Finding(cls(sample.name, location, scale, step), (note,))

    def add_noise(self, values: Reals, uniform: Reals) -> Reals:
        """Values uniform on the cell of width h around each recorded one."""
        return values + self.step * (uniform - 0.5)


def _is_peaked(column: GridColumn, measured: Measurement, rules: GridRules) -> bool:
    """Whether one value holds far more of the law than its cell's share of the column's width."""
    density = measured.largest_share * column.scale / measured.step
    return measured.largest_share > rules.peak_share and density > rules.peak_density

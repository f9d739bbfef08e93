"""One column of a table: the map between its values and standardised reals, with its log-Jacobian.

    z = (f(y) - m) / s,   y = x + noise,   log|dz/dx| = log f'(x) - log s   (nats)

m and s² are mean and variance of f(y) over the rows that a fit may see. A kind of column says what f and the
noise are, and which columns are of its kind.

Source: change of variables, log p_x(x) = log p_z(z) + log|dz/dx|.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt

__all__ = ["Column", "ColumnSample", "Finding", "Note", "require_keys"]

Reals = npt.NDArray[np.float64]


class Note(NamedTuple):
    """A line of the summary that columns of one kind share.

    Arguments:
        sentence: What is said of all of them; `{count}` stands for how many they are, `{dim}` for how many
            columns the table has.
        column: What is said of this one, for the list that ends the line.
    """

    sentence: str
    column: str


class Finding(NamedTuple):
    """A column as its kind was read from the table, and what the summary says of it."""

    column: Column
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class ColumnSample:
    """What a kind of column is read from.

    Arguments:
        name: The column's name.
        distinct: Its values in the rows that repeat no earlier row, data units: a row that is there twice
            would make each of its values look tied.
        seen: Its values in the rows that a fit may see, for location and scale.
        weight: How much each row of `seen` counts; None where all count the same.
        integer: True where the column is of an integer or boolean type.
    """

    name: str
    distinct: Reals
    seen: Reals
    weight: Reals | None = None
    integer: bool = False


@dataclass(frozen=True)
class Column(ABC):
    """One column, and what standardises it.

    Arguments:
        name: The user's name of it, or `x0`, `x1`, … where there was none.
        location: Mean m of f(y) over the rows of the fit.
        scale: Standard deviation s > 0 of f(y) there.

    Raises:
        ValueError: A scale that is not positive.
    """

    name: str
    location: float
    scale: float

    kind: ClassVar[str]
    """The name in `COLUMNS` and on the disk."""

    is_dequantised: ClassVar[bool] = False
    """Whether rows to train on get noise, made of one uniform number each."""

    is_linear: ClassVar[bool] = True
    """Whether f is the identity, so that the Jacobian is the same in each row."""

    def __post_init__(self) -> None:
        if self.scale <= 0.0:
            raise ValueError(f"column {self.name} has a scale that is not positive")

    @classmethod
    @abstractmethod
    def read(cls, sample: ColumnSample) -> Finding | None:
        """The column, or None where it is of another kind."""

    def add_noise(self, values: Reals, uniform: Reals) -> Reals:
        """The values y to train on, shape `(n,)`, from recorded ones and numbers uniform on [0, 1)."""
        return values

    def to_reals(self, values: Reals) -> Reals:
        """f(y) of values in data units, any shape."""
        return values

    def from_reals(self, reals: Reals) -> Reals:
        """The inverse of `to_reals`."""
        return reals

    def log_slope(self, reals: Reals) -> Reals:
        """log f'(x) in nats, where f(x) is `reals`, of the same shape."""
        return np.zeros_like(reals)

    # ── on the disk ──

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` takes, for JSON."""
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Self:
        """Rebuild a column whose fields beside its name are numbers.

        Raises:
            ValueError: A field is missing, unknown, or no finite number.
        """
        require_keys(entry, {"kind"} | {field.name for field in fields(cls)}, "column")
        name = entry["name"]
        if not isinstance(name, str):
            raise ValueError("a column has no name")
        numbers = {key: value for key, value in entry.items() if key not in ("kind", "name")}
        return cls(name, **{key: _finite(value, f"{key} of {name}") for key, value in numbers.items()})


def require_keys(record: Mapping[str, Any], keys: set[str], what: str) -> None:
    """Raise a ValueError where a record has other keys than these."""
    if set(record) != keys:
        raise ValueError(f"{what} with keys {sorted(record)}, expected {sorted(keys)}")


def _finite(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{what} is not a finite number")
    return float(value)

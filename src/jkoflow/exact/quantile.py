r"""Laws on the line by their quantile functions, in which W2 is a distance of vectors.

A law is n cells of masses m_i between knots X_0 < ... < X_n, uniform inside each, so that its quantile
function is piecewise linear in the level u. With M the mass matrix of such functions,

    W2²(X, Y) = ∫_0^1 |F^{-1} - G^{-1}|² du = (X - Y)ᵀ M (X - Y),

exactly. Source: Villani (2003), Topics in Optimal Transportation, Theorem 2.18; theory, "Closed forms to test
against", on one dimension. Everything is NumPy float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from jkoflow.errors import InputError

__all__ = ["QuantileLaw", "field_of_norm", "normal_levels"]

Array = NDArray[np.float64]


def normal_levels(n_cells: int, *, reach: float = 6.0) -> Array:
    """Levels u_i = Φ(t_i), t_i equally spaced on [-reach, reach], rescaled to run from 0 to 1; `(n + 1,)`."""
    if n_cells < 2 or not reach > 0:
        raise InputError(f"levels: expected at least 2 cells and reach > 0, got {n_cells} and {reach}")
    levels = ndtr(np.linspace(-reach, reach, n_cells + 1))
    return np.asarray((levels - levels[0]) / (levels[-1] - levels[0]), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class QuantileLaw:
    """A law with a piecewise linear quantile function: uniform between knots.

    Arguments:
        masses: m, positive, sum 1, shape `(n,)`.
        knots: X, strictly increasing, shape `(n + 1,)`.

    Raises:
        InputError: Other shapes, masses that are not positive or do not sum to 1, knots out of order.
    """

    masses: Array
    knots: Array

    def __init__(self, masses: ArrayLike, knots: ArrayLike) -> None:
        m, x = np.array(masses, dtype=np.float64), np.array(knots, dtype=np.float64)
        if m.ndim != 1 or x.shape != (m.size + 1,):
            raise InputError(f"knots: expected one more than the {m.size} masses, got shape {x.shape}")
        if not (m > 0).all() or abs(m.sum() - 1) > 1e-12:
            raise InputError(f"masses: expected positive numbers of sum 1, got a sum of {m.sum():.15g}")
        if not (np.isfinite(x).all() and (np.diff(x) > 0).all()):
            raise InputError("knots: expected finite numbers in strictly increasing order")
        for name, value in (("masses", m), ("knots", x)):
            value.setflags(write=False)
            object.__setattr__(self, name, value)

    @classmethod
    def from_quantiles(
        cls, quantiles: Callable[[Array], ArrayLike], levels: Array, *, reach: float = 6.0
    ) -> QuantileLaw:
        """The law whose quantile function is interpolated at `levels`.

        Arguments:
            quantiles: The quantile function F^{-1}, array to array.
            levels: From 0 to 1, strictly increasing; the ends are read at Φ(∓reach), where a law on the whole
                line is still finite.
            reach: See `normal_levels`.
        """
        tail = float(ndtr(-reach))
        inside = tail + (1 - 2 * tail) * levels
        return cls(np.diff(levels), np.asarray(quantiles(inside), dtype=np.float64))

    def at(self, knots: ArrayLike) -> QuantileLaw:
        """The law of the same masses with other knots."""
        return QuantileLaw(self.masses, knots)

    @property
    def mean(self) -> float:
        """E x."""
        return float(self.masses @ (self.knots[1:] + self.knots[:-1]) / 2)

    @property
    def variance(self) -> float:
        """E (x - E x)²."""
        left, right = self.knots[:-1] - self.mean, self.knots[1:] - self.mean
        return float(self.masses @ (left**2 + left * right + right**2) / 3)

    @property
    def density(self) -> Array:
        """The density in each cell, shape `(n,)`."""
        return np.asarray(self.masses / np.diff(self.knots))

    def inner(self, first: Array, second: Array) -> float:
        """<f, g> in L²(rho) of two fields that are linear in the level between their values at the knots."""
        return float(second @ self.lower(first))

    def lower(self, field: Array) -> Array:
        """M f: the vector g with `<f, h> = g · h` for every field h."""
        out = np.zeros_like(field)
        out[:-1] += self.masses * (2 * field[:-1] + field[1:]) / 6
        out[1:] += self.masses * (field[:-1] + 2 * field[1:]) / 6
        return out

    def norm(self, field: Array) -> float:
        """‖f‖ in L²(rho), of a field as in `inner`."""
        return math.sqrt(max(self.inner(field, field), 0.0))

    def w2(self, other: QuantileLaw) -> float:
        """W2 distance to a law of the same masses, exactly.

        Raises:
            InputError: The masses differ.
        """
        if not np.array_equal(self.masses, other.masses):
            raise InputError("w2: expected laws of the same masses, got others; put both on the same levels")
        return self.norm(self.knots - other.knots)


def field_of_norm(law: QuantileLaw, values: ArrayLike, norm: float) -> Array:
    """A field at the knots, a multiple of `values`, with the given norm in L²(law)."""
    field = np.asarray(values, dtype=np.float64)
    size = law.norm(field)
    if not size > 0:
        raise InputError("values: expected a field that is not zero everywhere")
    return np.asarray(field * (norm / size))

r"""The objective of a proximal step on the line as a function of the knots, with its derivatives.

    X ↦ G(X) + (X - X_n)ᵀ M (X - X_n) / (2 gamma) - (X - X_n)ᵀ M xi,      X_0 < ... < X_m

In a cell between two knots log rho = log(mass/gap) is constant; expectations are taken by Gauss-Legendre
quadrature in each cell, whose weights are positive, so that G stays convex where it is. The Hessian is
tridiagonal, plus a dense part where G has an interaction.

Source: theory, "Closed forms to test against", on one dimension; the step is eq. (17) of Cheng, Lu, Tan & Xie
(2024), arXiv 2310.17582.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve, cho_solve_banded, cholesky_banded

from jkoflow.exact.functional import Functional
from jkoflow.exact.quantile import QuantileLaw

__all__ = ["Local", "StepProblem", "neighbours", "solve_symmetric"]

Array = NDArray[np.float64]


class Quadrature(NamedTuple):
    """A rule in one cell.

    Arguments:
        weights: Positive, of sum 1, shape `(k,)`.
        ends: How much each node moves with the left and the right knot of its cell, shape `(2, k)`.
    """

    weights: Array
    ends: Array

    @classmethod
    def gauss_legendre(cls, nodes: int) -> Quadrature:
        """The rule with so many nodes, exact up to degree `2 nodes - 1`."""
        at, weights = np.polynomial.legendre.leggauss(nodes)
        share = (at + 1) / 2
        return cls(weights / 2, np.stack([1 - share, share]))


class Local(NamedTuple):
    """Value, gradient `(m,)`, and Hessian: diagonal `(m,)`, off-diagonal `(m - 1,)`, a dense part or None."""

    value: float
    gradient: Array
    diagonal: Array
    beside: Array
    dense: Array | None


class PointTerms(NamedTuple):
    """Derivatives of an energy in the quadrature points: value, force and stiffness per unit of mass."""

    value: float
    force: Array
    stiffness: Array
    dense: Array | None = None


@dataclass(frozen=True)
class StepProblem:
    """One step's objective as a function of the knots.

    Arguments:
        functional: G.
        start: p_n, with the masses of every law that is compared.
        gamma: Step size; infinite for a free step.
        tilt: xi at the knots, shape `(n + 1,)`.
        nodes: Nodes of the quadrature in each cell.
    """

    functional: Functional
    start: QuantileLaw
    gamma: float
    tilt: Array
    nodes: int
    rule: Quadrature = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", Quadrature.gauss_legendre(self.nodes))

    def energy(self, knots: Array) -> float:
        """G alone."""
        return self._energy(knots).value + self.functional.constant

    def objective(self, knots: Array) -> float:
        """What is minimised; infinite where the knots are out of order or a number overflows."""
        if not (np.diff(knots) > 0).all():
            return math.inf
        with np.errstate(over="ignore", invalid="ignore"):
            value = self._energy(knots).value + self._transport(knots)
        return value if math.isfinite(value) else math.inf

    def local(self, knots: Array) -> Local:
        """The objective with its derivatives."""
        energy, m = self._energy(knots), self.start.masses
        move = knots - self.start.knots
        return Local(
            energy.value + self._transport(knots),
            energy.gradient + self.start.lower(move / self.gamma - self.tilt),
            energy.diagonal + neighbours(m, m) / (3 * self.gamma),
            energy.beside + m / (6 * self.gamma),
            energy.dense,
        )

    def residual(self, gradient: Array) -> float:
        """Norm in L² of the Wasserstein gradient M^{-1} g, that is sqrt(gᵀ M^{-1} g)."""
        m = self.start.masses
        solved = solve_symmetric(neighbours(m, m) / 3, m / 6, None, gradient)
        assert solved is not None  # a mass matrix is positive definite
        return math.sqrt(max(float(gradient @ solved), 0.0))

    def _transport(self, knots: Array) -> float:
        move = knots - self.start.knots
        return self.start.inner(move, move) / (2 * self.gamma) - self.start.inner(move, self.tilt)

    def _energy(self, knots: Array) -> Local:
        """G and its derivatives, gathered from the cells."""
        gap, ends = np.diff(knots), self.rule.ends
        x = knots[:-1, None] * ends[0] + knots[1:, None] * ends[1]
        weight = self.start.masses[:, None] * self.rule.weights
        density = self._density(x, gap, weight)
        points = self._points(x, weight)
        force, stiffness = weight * points.force, weight * points.stiffness
        gradient = density.gradient + neighbours(force @ ends[0], force @ ends[1])
        diagonal = density.diagonal + neighbours(stiffness @ ends[0] ** 2, stiffness @ ends[1] ** 2)
        beside = density.beside + stiffness @ (ends[0] * ends[1])
        return Local(density.value + points.value, gradient, diagonal, beside, points.dense)

    def _density(self, x: Array, gap: Array, weight: Array) -> Local:
        """E[h(log rho + R)]: in a cell log rho = log(m/gap), so both of its knots enter every node."""
        n, ends = len(gap), self.rule.ends
        if self.functional.density is None:
            return Local(0.0, np.zeros(n + 1), np.zeros(n + 1), np.zeros(n), None)
        s = np.repeat(np.log(self.start.masses / gap)[:, None], self.nodes, axis=1)
        slope, curvature = np.zeros_like(x), np.zeros_like(x)
        if self.functional.reference is not None:
            reference = self.functional.reference(x)
            s, slope, curvature = s + reference.value, reference.slope, reference.curvature
        h = self.functional.density(s)
        first, second = weight * h.slope, weight * h.curvature
        left = 1 / gap[:, None] + slope * ends[0]
        right = -1 / gap[:, None] + slope * ends[1]
        barrier, bend = first.sum(axis=1) / gap**2, first * curvature
        return Local(
            float((weight * h.value).sum()),
            neighbours((first * left).sum(axis=1), (first * right).sum(axis=1)),
            neighbours(
                (second * left**2 + bend * ends[0] ** 2).sum(axis=1) + barrier,
                (second * right**2 + bend * ends[1] ** 2).sum(axis=1) + barrier,
            ),
            (second * left * right + bend * ends[0] * ends[1]).sum(axis=1) - barrier,
            None,
        )

    def _points(self, x: Array, weight: Array) -> PointTerms:
        """E[P(x)] + E[W(x - x')]/2 in the quadrature points."""
        value, force, stiffness, dense = 0.0, np.zeros_like(x), np.zeros_like(x), None
        if self.functional.potential is not None:
            jet = self.functional.potential(x)
            value, force, stiffness = float((weight * jet.value).sum()), jet.slope, jet.curvature
        if self.functional.interaction is not None:
            w = weight.ravel()
            pair = self.functional.interaction(x.ravel()[:, None] - x.ravel())
            value += float(w @ pair.value @ w) / 2
            force = force + (pair.slope @ w).reshape(x.shape)
            stiffness = stiffness + (pair.curvature @ w).reshape(x.shape)
            dense = -_between_knots(w[:, None] * pair.curvature * w, len(x), self.rule.ends)
        return PointTerms(value, force, stiffness, dense)


def neighbours(left: Array, right: Array) -> Array:
    """Sums at the knots `(n + 1,)` of what the cells give to their left and right knots, `(n,)` each."""
    out = np.concatenate([left, [0.0]])
    out[1:] += right
    return out


def _between_knots(points: Array, n_cells: int, ends: Array) -> Array:
    """A matrix between quadrature points as one between knots, `(n + 1, n + 1)`."""
    nodes = ends.shape[1]
    cells = np.einsum("akbl,ik,jl->aibj", points.reshape(n_cells, nodes, n_cells, nodes), ends, ends)
    out = np.zeros((n_cells + 1, n_cells + 1))
    for i in (0, 1):
        for j in (0, 1):
            out[i : n_cells + i, j : n_cells + j] += cells[:, i, :, j]
    return out


def solve_symmetric(diagonal: Array, beside: Array, dense: Array | None, right: Array) -> Array | None:
    """Solve with a symmetric matrix, scaled to a unit diagonal since masses differ by many orders.

    None where it is not positive definite.
    """
    if not (diagonal > 0).all():
        return None
    scale = 1 / np.sqrt(diagonal)
    band = np.zeros((2, len(diagonal)))
    band[0, 1:], band[1] = beside * scale[1:] * scale[:-1], 1.0
    try:
        if dense is None:
            return np.asarray(
                scale * cho_solve_banded((cholesky_banded(band), False), scale * right), dtype=np.float64
            )
        matrix = scale[:, None] * dense * scale + np.diag(band[1]) + np.diag(band[0, 1:], 1)
        matrix += np.diag(band[0, 1:], -1)
        return np.asarray(scale * cho_solve(cho_factor(matrix), scale * right), dtype=np.float64)
    except LinAlgError:
        return None

r"""The proximal step on the line for any functional: a finite problem over increasing maps, by Newton.

    X' = argmin_X  G(X) + (X - X_n)ᵀ M (X - X_n) / (2 gamma) - (X - X_n)ᵀ M xi,      X_0 < ... < X_m

over laws with piecewise linear quantile functions (`jkoflow.exact.quantile`), G by Gauss-Legendre
quadrature in each cell. These laws are a convex cone in L²(0, 1), and quadrature with positive weights keeps
G convex, so every theorem on lambda-convex functionals holds for the finite problem as it stands, with the
minimiser of G in the cone for q; against the continuous problem the error falls as n^{-2} or faster. xi
injects a first-order error: at X' the Wasserstein gradient of eq. (29) equals xi instead of 0.

Source: theory, "Closed forms to test against", on one dimension; the step is eq. (17) of Cheng, Lu, Tan & Xie
(2024), arXiv 2310.17582.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve, cho_solve_banded, cholesky_banded

from jkoflow.errors import InputError, NumericalError
from jkoflow.exact.functional import Functional
from jkoflow.exact.quantile import QuantileLaw

__all__ = ["QuantileStep", "evaluate", "quantile_step", "quantile_trajectory"]

Array = NDArray[np.float64]

CONVEX_TOLERANCE, OTHER_TOLERANCE = 1e-10, 1e-8
"""Largest norm of the first-order condition's residual: of a minimiser, and of a stationary point."""

_NODES = 4
_MOST_STEPS = 500
_SUFFICIENT_DECREASE = 1e-4
_SHORTEST_STRIDE = 1e-12
_FEASIBLE_SHARE = 0.95
_ROUNDING = 1e-14


def _gauss_legendre(n: int) -> tuple[Array, Array]:
    """Nodes in (0, 1) and weights that sum to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return (nodes + 1) / 2, weights / 2


_TAU, _OMEGA = _gauss_legendre(_NODES)
_ENDS = np.stack([1 - _TAU, _TAU])
"""How much each node of a cell moves with its left and its right knot, shape `(2, nodes)`."""


@dataclass(frozen=True, eq=False)
class QuantileStep:
    """What a step came to.

    Arguments:
        law: p_{n+1}.
        residual: ‖G'(X') + (X' - X)/gamma - xi‖ in L²: how far the first-order condition is from exact.
        kind: `"minimiser"` where the problem is convex, else `"stationary point"`.
        iterations: Newton steps taken.
    """

    law: QuantileLaw
    residual: float
    kind: str
    iterations: int


def evaluate(functional: Functional, law: QuantileLaw) -> float:
    """G(law), nats."""
    return _Problem(functional, law, math.inf, np.zeros_like(law.knots)).energy(law.knots)


def quantile_step(
    law: QuantileLaw, gamma: float, functional: Functional, *, error: Array | None = None
) -> QuantileStep:
    """p_{n+1} = argmin_p G(p) + W2²(p, p_n)/(2 gamma), on the line.

    Arguments:
        law: p_n.
        gamma: Step size > 0; `math.inf` is the free step, which ends in the minimiser of G.
        functional: G.
        error: xi at the knots of p_{n+1}, a first-order error to inject; none by default.

    Raises:
        InputError: gamma is not positive, or `error` has another shape.
        NumericalError: G overflows at the start, or the first-order condition could not be met.
    """
    if not gamma > 0:
        raise InputError(f"gamma: expected a step size above 0 (math.inf for the free step), got {gamma}")
    tilt = np.zeros_like(law.knots) if error is None else np.asarray(error, dtype=np.float64)
    if tilt.shape != law.knots.shape:
        raise InputError(f"error: expected one value for each of {law.knots.size} knots, got {tilt.shape}")
    problem = _Problem(functional, law, gamma, tilt)
    if math.isinf(problem.objective(law.knots)):
        raise NumericalError(
            f"quantile step of {functional.name}: its value at the start is beyond floating point",
            remedy="start from a law nearer to its minimiser",
        )
    tolerance = CONVEX_TOLERANCE if functional.is_convex else OTHER_TOLERANCE
    knots, residual, iterations = _descend(problem, law.knots, tolerance)
    if residual > tolerance:
        raise NumericalError(
            f"quantile step of {functional.name}: first-order residual {residual:.1e} after {iterations} "
            f"Newton steps, expected {tolerance:g}",
            remedy="use fewer cells, or a smaller gamma",
        )
    kind = "minimiser" if functional.is_convex else "stationary point"
    return QuantileStep(law.at(knots), residual, kind, iterations)


def quantile_trajectory(
    law: QuantileLaw, gammas: Iterable[float], functional: Functional
) -> tuple[QuantileLaw, ...]:
    """p_0, p_1, ..., p_N: the left fold of exact steps with sizes gamma_1, ..., gamma_N."""
    laws = [law]
    for gamma in gammas:
        laws.append(quantile_step(laws[-1], gamma, functional).law)
    return tuple(laws)


# ── the finite problem ──


class _Local(NamedTuple):
    """Value, gradient `(m,)`, and Hessian: diagonal `(m,)`, off-diagonal `(m - 1,)`, a dense part or None."""

    value: float
    gradient: Array
    diagonal: Array
    beside: Array
    dense: Array | None


class _Points(NamedTuple):
    """Derivatives of an energy in the quadrature points: value, force and stiffness per unit of mass."""

    value: float
    force: Array
    stiffness: Array
    dense: Array | None = None


@dataclass(frozen=True)
class _Problem:
    """One step's objective as a function of the knots."""

    functional: Functional
    start: QuantileLaw
    gamma: float
    tilt: Array

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

    def local(self, knots: Array) -> _Local:
        """The objective with its derivatives."""
        energy, m = self._energy(knots), self.start.masses
        move = knots - self.start.knots
        return _Local(
            energy.value + self._transport(knots),
            energy.gradient + self.start.lower(move / self.gamma - self.tilt),
            energy.diagonal + _neighbours(m, m) / (3 * self.gamma),
            energy.beside + m / (6 * self.gamma),
            energy.dense,
        )

    def residual(self, gradient: Array) -> float:
        """Norm in L² of the Wasserstein gradient M^{-1} g, that is sqrt(gᵀ M^{-1} g)."""
        m = self.start.masses
        solved = _solve(_neighbours(m, m) / 3, m / 6, None, gradient)
        assert solved is not None  # a mass matrix is positive definite
        return math.sqrt(max(float(gradient @ solved), 0.0))

    def _transport(self, knots: Array) -> float:
        move = knots - self.start.knots
        return self.start.inner(move, move) / (2 * self.gamma) - self.start.inner(move, self.tilt)

    def _energy(self, knots: Array) -> _Local:
        """G and its derivatives, gathered from the cells."""
        gap = np.diff(knots)
        x = knots[:-1, None] * _ENDS[0] + knots[1:, None] * _ENDS[1]
        weight = self.start.masses[:, None] * _OMEGA
        density = self._density(x, gap, weight)
        points = self._points(x, weight)
        force, stiffness = weight * points.force, weight * points.stiffness
        gradient = density.gradient + _neighbours(force @ _ENDS[0], force @ _ENDS[1])
        diagonal = density.diagonal + _neighbours(stiffness @ _ENDS[0] ** 2, stiffness @ _ENDS[1] ** 2)
        beside = density.beside + stiffness @ (_ENDS[0] * _ENDS[1])
        return _Local(density.value + points.value, gradient, diagonal, beside, points.dense)

    def _density(self, x: Array, gap: Array, weight: Array) -> _Local:
        """E[h(log rho + R)]: in a cell log rho = log(m/gap), so both of its knots enter every node."""
        n = len(gap)
        if self.functional.density is None:
            return _Local(0.0, np.zeros(n + 1), np.zeros(n + 1), np.zeros(n), None)
        s = np.repeat(np.log(self.start.masses / gap)[:, None], _NODES, axis=1)
        slope, curvature = np.zeros_like(x), np.zeros_like(x)
        if self.functional.reference is not None:
            reference = self.functional.reference(x)
            s, slope, curvature = s + reference.value, reference.slope, reference.curvature
        h = self.functional.density(s)
        first, second = weight * h.slope, weight * h.curvature
        left = 1 / gap[:, None] + slope * _ENDS[0]
        right = -1 / gap[:, None] + slope * _ENDS[1]
        barrier, bend = first.sum(axis=1) / gap**2, first * curvature
        return _Local(
            float((weight * h.value).sum()),
            _neighbours((first * left).sum(axis=1), (first * right).sum(axis=1)),
            _neighbours(
                (second * left**2 + bend * _ENDS[0] ** 2).sum(axis=1) + barrier,
                (second * right**2 + bend * _ENDS[1] ** 2).sum(axis=1) + barrier,
            ),
            (second * left * right + bend * _ENDS[0] * _ENDS[1]).sum(axis=1) - barrier,
            None,
        )

    def _points(self, x: Array, weight: Array) -> _Points:
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
            dense = -_between_knots(w[:, None] * pair.curvature * w, len(x))
        return _Points(value, force, stiffness, dense)


def _neighbours(left: Array, right: Array) -> Array:
    """Sums at the knots `(n + 1,)` of what the cells give to their left and right knots, `(n,)` each."""
    out = np.concatenate([left, [0.0]])
    out[1:] += right
    return out


def _between_knots(points: Array, n_cells: int) -> Array:
    """A matrix between quadrature points as one between knots, `(n + 1, n + 1)`."""
    cells = np.einsum("akbl,ik,jl->aibj", points.reshape(n_cells, _NODES, n_cells, _NODES), _ENDS, _ENDS)
    out = np.zeros((n_cells + 1, n_cells + 1))
    for i in (0, 1):
        for j in (0, 1):
            out[i : n_cells + i, j : n_cells + j] += cells[:, i, :, j]
    return out


# ── Newton's method ──


def _solve(diagonal: Array, beside: Array, dense: Array | None, right: Array) -> Array | None:
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


def _newton_direction(problem: _Problem, at: _Local) -> Array:
    """-H^{-1} g, with H shifted by multiples of M until it is positive definite."""
    m, shift = problem.start.masses, 0.0
    while True:
        diagonal = at.diagonal + shift * _neighbours(m, m) / 3
        direction = _solve(diagonal, at.beside + shift * m / 6, at.dense, -at.gradient)
        if direction is not None and np.isfinite(direction).all():
            return np.asarray(direction)
        shift = max(10 * shift, 1e-3)


def _longest_stride(knots: Array, direction: Array) -> float:
    """The largest share of a full step, at most 1, that keeps the knots in order with room to spare."""
    gap, change = np.diff(knots), np.diff(direction)
    shrinking = change < 0
    if not shrinking.any():
        return 1.0
    return min(1.0, _FEASIBLE_SHARE * float((-gap[shrinking] / change[shrinking]).min()))


def _descend(problem: _Problem, knots: Array, tolerance: float) -> tuple[Array, float, int]:
    """Damped Newton from `knots`; the best knots, their residual, and the steps taken.

    It goes on below the tolerance while the residual still halves, since that costs little and gives tests of
    the theorems more digits.
    """
    at = problem.local(knots)
    best, smallest = knots, problem.residual(at.gradient)
    for step in range(1, _MOST_STEPS + 1):
        direction = _newton_direction(problem, at)
        decrease, stride = float(at.gradient @ direction), _longest_stride(knots, direction)
        slack = _ROUNDING * (1 + abs(at.value))
        while stride > _SHORTEST_STRIDE:
            value = problem.objective(knots + stride * direction)
            if value <= at.value + _SUFFICIENT_DECREASE * stride * decrease + slack:
                break
            stride /= 2
        else:
            return best, smallest, step
        knots = knots + stride * direction
        at = problem.local(knots)
        residual = problem.residual(at.gradient)
        halved = residual < smallest / 2
        if residual < smallest:
            best, smallest = knots, residual
        if smallest <= tolerance and not halved:
            return best, smallest, step
    return best, smallest, _MOST_STEPS

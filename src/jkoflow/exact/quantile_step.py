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

import numpy as np
from numpy.typing import NDArray

from jkoflow.errors import InputError, NumericalError
from jkoflow.exact.functional import Functional
from jkoflow.exact.quantile import QuantileLaw
from jkoflow.exact.quantile_problem import Local, StepProblem, neighbours, solve_symmetric

__all__ = ["Newton", "QuantileStep", "evaluate", "quantile_step", "quantile_trajectory"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Newton:
    """How the finite problem is solved, by damped Newton steps with a backtracking line search.

    Arguments:
        convex_tolerance: Largest residual of the first-order condition at a minimiser, where G is convex.
        other_tolerance: The same at a stationary point, where it is not.
        most_steps: Most Newton steps.
        sufficient_decrease: Share of the decrease foretold by the slope that a step must bring (Armijo).
        shortest_stride: Share of a full step below which the search gives up.
        feasible_share: Share of the way to where two knots meet that a step may go.
        rounding: Rise of the objective, relative to 1 + its value, that is taken for rounding.
    """

    convex_tolerance: float = 1e-10
    other_tolerance: float = 1e-8
    most_steps: int = 500
    sufficient_decrease: float = 1e-4
    shortest_stride: float = 1e-12
    feasible_share: float = 0.95
    rounding: float = 1e-14


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


def evaluate(functional: Functional, law: QuantileLaw, *, nodes: int = 4) -> float:
    """G(law), nats, by a quadrature of so many nodes in each cell."""
    return StepProblem(functional, law, math.inf, np.zeros_like(law.knots), nodes).energy(law.knots)


def quantile_step(
    law: QuantileLaw,
    gamma: float,
    functional: Functional,
    *,
    error: Array | None = None,
    nodes: int = 4,
    newton: Newton | None = None,
) -> QuantileStep:
    """p_{n+1} = argmin_p G(p) + W2²(p, p_n)/(2 gamma), on the line.

    Arguments:
        law: p_n.
        gamma: Step size > 0; `math.inf` is the free step, which ends in the minimiser of G.
        functional: G.
        error: xi at the knots of p_{n+1}, a first-order error to inject; none by default.
        nodes: Nodes of the quadrature in each cell.
        newton: How the finite problem is solved; `Newton()` if None.

    Raises:
        InputError: gamma is not positive, or `error` has another shape.
        NumericalError: G overflows at the start, or the first-order condition could not be met.
    """
    if not gamma > 0:
        raise InputError(f"gamma: expected a step size above 0 (math.inf for the free step), got {gamma}")
    tilt = np.zeros_like(law.knots) if error is None else np.asarray(error, dtype=np.float64)
    if tilt.shape != law.knots.shape:
        raise InputError(f"error: expected one value for each of {law.knots.size} knots, got {tilt.shape}")
    problem = StepProblem(functional, law, gamma, tilt, nodes)
    if math.isinf(problem.objective(law.knots)):
        raise NumericalError(
            f"quantile step of {functional.name}: its value at the start is beyond floating point",
            remedy="start from a law nearer to its minimiser",
        )
    newton = newton or Newton()
    tolerance = newton.convex_tolerance if functional.is_convex else newton.other_tolerance
    knots, residual, iterations = _descend(problem, law.knots, tolerance, newton)
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


# ── Newton's method ──


def _newton_direction(problem: StepProblem, at: Local) -> Array:
    """-H^{-1} g, with H shifted by multiples of M until it is positive definite."""
    m, shift = problem.start.masses, 0.0
    while True:
        diagonal = at.diagonal + shift * neighbours(m, m) / 3
        direction = solve_symmetric(diagonal, at.beside + shift * m / 6, at.dense, -at.gradient)
        if direction is not None and np.isfinite(direction).all():
            return np.asarray(direction)
        shift = max(10 * shift, 1e-3)


def _longest_stride(knots: Array, direction: Array, share: float) -> float:
    """The longest stride, at most 1, that goes no more than `share` of the way to where two knots meet."""
    gap, change = np.diff(knots), np.diff(direction)
    shrinking = change < 0
    if not shrinking.any():
        return 1.0
    return min(1.0, share * float((-gap[shrinking] / change[shrinking]).min()))


def _descend(
    problem: StepProblem, knots: Array, tolerance: float, newton: Newton
) -> tuple[Array, float, int]:
    """Damped Newton from `knots`; the best knots, their residual, and the steps taken.

    It goes on below the tolerance while the residual still halves, since that costs little and gives tests of
    the theorems more digits.
    """
    at = problem.local(knots)
    best, smallest = knots, problem.residual(at.gradient)
    for step in range(1, newton.most_steps + 1):
        direction = _newton_direction(problem, at)
        decrease = float(at.gradient @ direction)
        stride = _longest_stride(knots, direction, newton.feasible_share)
        slack = newton.rounding * (1 + abs(at.value))
        while stride > newton.shortest_stride:
            value = problem.objective(knots + stride * direction)
            if value <= at.value + newton.sufficient_decrease * stride * decrease + slack:
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
    return best, smallest, newton.most_steps

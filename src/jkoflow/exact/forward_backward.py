"""The forward-backward step of KL(·‖q) for Gaussians, and the Gaussian variational inference made of it.

A gradient step on V, then the exact JKO step of the negative entropy alone:

    m' = m - gamma E∇V,    S = M Σ M,    M = I - gamma E∇²V,
    Σ' = (S + 2 gamma I + (S² + 4 gamma S)^{1/2}) / 2,

expectations under N(m, Σ). For quadratic V they are A(m - b) and A, and the step is that of the Wasserstein
proximal gradient, which ends in q; for other convex V the limit is the Gaussian nearest to q in KL(·‖q). With
lambda I <= ∇²V <= L I, gamma <= 1/L and p* the limit,

    W2²(p_n, p*) <= (1 - gamma lambda)^n W2²(p_0, p*).

Sources: theory, "Closed forms to test against"; Salim, Korba & Luise (2020), arXiv 2002.03035; for E∇V of any
V, FB-GVI of Diao, Balasubramanian, Chewi & Salim (2023), arXiv 2304.05398. Everything is NumPy float64.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import roots_hermitenorm

from jkoflow.errors import InputError
from jkoflow.exact.gaussian import GaussianState, Quadratic, symmetric_power

__all__ = [
    "NormalRule",
    "VariationalResult",
    "forward_backward_step",
    "gaussian_variational_inference",
    "gaussian_variational_step",
]

Array = NDArray[np.float64]
Field = Callable[[Array], Array]


@dataclass(frozen=True, eq=False)
class NormalRule:
    """A rule for expectations under a Gaussian, `E f(m + Σ^{1/2} Z) ≈ Σ_i w_i f(m + Σ^{1/2} z_i)`.

    It is a value: the same rule gives the same numbers. Where the points are draws, draw them once and pass
    them with their negatives, `np.concatenate([z, -z])`: E∇V is then exact for every quadratic V.

    Arguments:
        points: z_i, nodes for the standard normal law, shape `(n, d)`.
        weights: w_i >= 0 with sum 1, shape `(n,)`; None for equal weights.

    Raises:
        InputError: Wrong shapes, not finite, or weights that are no probabilities.
    """

    points: Array
    weights: Array

    def __init__(self, points: ArrayLike, weights: ArrayLike | None = None) -> None:
        z = np.array(points, dtype=np.float64)
        if z.ndim != 2 or z.size == 0 or not np.isfinite(z).all():
            raise InputError(f"points: expected finite rows of shape (n, d), got shape {z.shape}")
        n = len(z)
        w = np.full(n, 1 / n) if weights is None else np.array(weights, dtype=np.float64)
        if w.shape != (n,) or not (w >= 0).all() or not math.isclose(w.sum(), 1, rel_tol=1e-10):
            raise InputError(
                f"weights: expected {n} weights >= 0 with sum 1, got shape {w.shape} and sum {w.sum():g}; "
                "divide them by their sum"
            )
        for name, array in (("points", z), ("weights", w)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @classmethod
    def gauss_hermite(cls, dim: int, *, nodes: int = 32, most_points: int = 100_000) -> NormalRule:
        """Tensor product of the Gauss–Hermite rule, exact up to degree `2 nodes - 1` in each coordinate of z.

        Arguments:
            dim: Dimension d.
            nodes: Nodes in each direction; 1 leaves the mean alone, in any dimension, which is exact for
                quadratic V.
            most_points: Most points z_i that are accepted; each costs an evaluation of V in every step.

        Raises:
            InputError: Not counts above 0, or more points than `most_points`.
        """
        if not (dim >= 1 and nodes >= 1):
            raise InputError(f"dim, nodes: expected whole numbers above 0, got {dim} and {nodes}")
        if nodes**dim > most_points:
            raise InputError(
                f"nodes: expected at most {most_points} points, got {nodes} in each of {dim} directions; "
                "pass standard normal points, NormalRule(points)"
            )
        z, w = roots_hermitenorm(nodes)
        index = np.array(list(itertools.product(range(nodes), repeat=dim)))
        return cls(z[index], (w / w.sum())[index].prod(1))

    @property
    def dim(self) -> int:
        """Dimension d."""
        return int(self.points.shape[1])


@dataclass(frozen=True, eq=False)
class VariationalResult:
    """Where Gaussian variational inference ended.

    Arguments:
        state: The last Gaussian.
        steps: How many steps were taken.
        speed: Upper bound on `W2(p_{n-1}, p_n)/gamma` at the last step, in units of x per unit of time.
        converged: Whether `speed` fell to the tolerance.
    """

    state: GaussianState
    steps: int
    speed: float
    converged: bool


def forward_backward_step(state: GaussianState, gamma: float, potential: Quadratic) -> GaussianState:
    """p_{n+1} = argmin_p ∫p log p + W2²(p, μ)/(2 gamma), μ = (id - gamma ∇V)# p_n, exactly.

    Arguments:
        state: p_n = N(m, Σ); a singular Σ is allowed, Σ' is never singular.
        gamma: Step size in (0, 1/L] in units of time, finite, with L the largest eigenvalue of A.
        potential: V = -log q + constant; A may be singular.

    Raises:
        InputError: gamma is outside its range, or dimensions differ.
    """
    _check(state, gamma, potential.dim)
    slope = potential.matrix @ (state.mean - potential.centre)
    mean, root = _step(state.mean, symmetric_power(state.covariance, 0.5), gamma, slope, potential.matrix)
    return GaussianState(mean, root @ root.T)


def gaussian_variational_step(
    state: GaussianState, gamma: float, gradient: Field, hessian: Field, *, rule: NormalRule
) -> GaussianState:
    """One step of FB-GVI: `forward_backward_step` with E∇V and E∇²V under the current Gaussian.

    Arguments:
        state: p_n = N(m, Σ); a singular Σ is allowed, Σ' is never singular.
        gamma: Step size in (0, 1/L] in units of time, finite, with ∇²V <= L I everywhere.
        gradient: ∇V at the rows of x, shape `(n, d)` to `(n, d)`.
        hessian: ∇²V at the rows of x, shape `(n, d)` to `(n, d, d)`; or to `(d, d)`, their mean under the
            rule's weights, where it is constant or where n matrices would not fit into memory.
        rule: Where V is evaluated and with which weights.

    Raises:
        InputError: Dimensions differ, a callable returns the wrong shape or numbers that are not finite, the
            Hessian is not symmetric, or gamma is not positive or exceeds 1/L, as far as E∇²V shows it.
    """
    _check(state, gamma, rule.dim)
    mean, root = _variational(
        state.mean, symmetric_power(state.covariance, 0.5), gamma, gradient, hessian, rule
    )
    return GaussianState(mean, root @ root.T)


def gaussian_variational_inference(
    start: GaussianState,
    gamma: float,
    gradient: Field,
    hessian: Field,
    *,
    rule: NormalRule,
    tolerance: float = 1e-8,
    max_steps: int = 10_000,
) -> VariationalResult:
    """The Gaussian nearest to q ∝ exp(-V) in KL(·‖q): steps of FB-GVI until p_n moves no more.

    Where V is not convex, the end has `E∇V = 0` and `E∇²V = Σ^{-1}`, but a nearer Gaussian may exist.

    It stops when `(|m' - m|² + ‖Σ'^{1/2} - Σ^{1/2}‖_F²)^{1/2} <= gamma tolerance`. The left side is never
    below W2(p_n, p_{n+1}), so that with exact expectations and ∇²V >= lambda I the rate above gives

        W2(p_last, p*) <= 2 speed/lambda <= 2 tolerance/lambda,    whatever gamma is.

    Rounding keeps the speed above a few `1e-15 ‖Σ^{1/2}‖_F/gamma`. A step costs O(d³) and the callables.

    Arguments:
        start: p_0.
        gamma: As in `gaussian_variational_step`, as are `gradient`, `hessian` and `rule`.
        gradient: ∇V.
        hessian: ∇²V.
        rule: Where V is evaluated and with which weights; the result is the limit under this rule.
        tolerance: Speed > 0 at which to stop, in units of x per unit of time.
        max_steps: Most steps to take, at least 1; running out of them is no error, `converged` tells.

    Raises:
        InputError: As `gaussian_variational_step`, or tolerance or max_steps out of range.
    """
    _check(start, gamma, rule.dim)
    if not tolerance > 0:
        raise InputError(f"tolerance: expected a speed above 0, got {tolerance}; use 1e-8")
    if not max_steps >= 1:
        raise InputError(f"max_steps: expected at least 1, got {max_steps}")
    mean, root = start.mean, symmetric_power(start.covariance, 0.5)
    steps, speed = 0, math.inf
    while steps < max_steps and speed > tolerance:
        last_mean, last_root = mean, root
        mean, root = _variational(mean, root, gamma, gradient, hessian, rule)
        speed = math.hypot(np.linalg.norm(mean - last_mean), np.linalg.norm(root - last_root)) / gamma
        steps += 1
    return VariationalResult(GaussianState(mean, root @ root.T), steps, speed, speed <= tolerance)


def _check(state: GaussianState, gamma: float, dim: int) -> None:
    if state.dim != dim:
        raise InputError(f"expected a Gaussian and a V or rule of one dimension, got {state.dim} and {dim}")
    if not 0 < gamma < math.inf:
        raise InputError(f"gamma: expected a finite step size above 0 and up to 1/L, got {gamma}")


def _step(
    mean: Array, root: Array, gamma: float, slope: Array, curvature: Array, *, rounding: float = 1e-12
) -> tuple[Array, Array]:
    """m', Σ'^{1/2} from m, Σ^{1/2}, E∇V and E∇²V; gamma L may exceed 1 by `rounding`."""
    largest = float(np.linalg.eigvalsh(curvature)[-1])
    if gamma * largest > 1 + rounding:
        raise InputError(
            f"gamma: expected at most 1/L, here not above {1 / largest:g}, got {gamma:g}; take a smaller "
            "step (for quadratic V, jko_step has no such limit)"
        )
    # The eigenvalues of S^{1/2} are the singular values of M Σ^{1/2}. S itself is not formed: at gamma = 1/L
    # it is singular, and there (S² + 4 gamma S)^{1/2} would keep 8 digits only.
    left, s, _ = np.linalg.svd(root - gamma * curvature @ root)
    s = (s + np.sqrt(s**2 + 4 * gamma)) / 2
    return mean - gamma * slope, np.asarray((left * s) @ left.T)


def _variational(
    mean: Array, root: Array, gamma: float, gradient: Field, hessian: Field, rule: NormalRule
) -> tuple[Array, Array]:
    x = mean + rule.points @ root
    slope = rule.weights @ _finite("gradient", gradient(x), x.shape)
    values = np.asarray(hessian(x), dtype=np.float64)
    if values.ndim != 2:
        values = np.tensordot(rule.weights, _finite("hessian", values, (*x.shape, rule.dim)), 1)
    curvature = _finite("hessian", values, (rule.dim, rule.dim))
    if np.abs(curvature - curvature.T).max() > 1e-10 * np.abs(curvature).max():
        raise InputError("hessian: expected symmetric matrices, got a mean that is not; use (H + H.T)/2")
    return _step(mean, root, gamma, slope, (curvature + curvature.T) / 2)


def _finite(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Array:
    array = np.asarray(value, dtype=np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise InputError(f"{name}: expected a finite array of shape {shape}, got shape {array.shape}")
    return array

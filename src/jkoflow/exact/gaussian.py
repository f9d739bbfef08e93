"""The JKO step of KL(·‖q) in closed form, for Gaussian p_n and any quadratic V, commuting or not.

For V(x) = (x-b)ᵀ A (x-b)/2 and p_n = N(m, Σ), with B = I + gamma A and C = B^{-1/2} Σ B^{-1/2},

    m' = B^{-1} (m + gamma A b),
    Σ' = B^{-1/2} X B^{-1/2},    X = (C + 2 gamma I + (C² + 4 gamma C)^{1/2}) / 2,

and p_{n+1} = N(m', Σ') minimises KL(p‖q) + W2²(p, p_n)/(2 gamma). With a first-order error
xi(x) = a + S (x - m') injected, so that the Wasserstein gradient (29) equals xi instead of 0, m' gains
B^{-1} gamma a, and Σ' is that of A - S in the place of A. Sources: theory, "Closed forms to test against";
the step is eq. (17) of Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582. Everything is NumPy float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jkoflow.errors import InputError

__all__ = [
    "AffineError",
    "AffineMap",
    "GaussianState",
    "Quadratic",
    "jko_step",
    "kl",
    "symmetric_power",
    "trajectory",
    "transport_map",
    "w2",
]

Array = NDArray[np.float64]


def _vector(name: str, value: ArrayLike) -> Array:
    """Return `value` as a read-only finite vector (d,)."""
    vector = np.array(value, dtype=np.float64)
    if vector.ndim != 1 or vector.size == 0 or not np.isfinite(vector).all():
        raise InputError(f"{name}: expected a finite vector of shape (d,), got shape {vector.shape}")
    vector.setflags(write=False)
    return vector


def _semidefinite(name: str, value: ArrayLike, dim: int) -> Array:
    """Return `value` as a read-only symmetric positive semidefinite matrix (d, d)."""
    matrix = np.array(value, dtype=np.float64)
    if matrix.shape != (dim, dim) or not np.isfinite(matrix).all():
        raise InputError(f"{name}: expected a finite matrix of shape {(dim, dim)}, got shape {matrix.shape}")
    tolerance = 1e-10 * float(np.abs(matrix).max())
    if float(np.abs(matrix - matrix.T).max()) > tolerance:
        raise InputError(f"{name}: expected a symmetric matrix, got one that is not; use (M + M.T)/2")
    matrix = (matrix + matrix.T) / 2
    smallest = float(np.linalg.eigvalsh(matrix)[0])
    if smallest < -tolerance:
        raise InputError(
            f"{name}: expected a positive semidefinite matrix, got smallest eigenvalue {smallest:g}"
        )
    matrix.setflags(write=False)
    return matrix


def symmetric_power(matrix: Array, exponent: float) -> Array:
    """Symmetric power of a positive semidefinite matrix, by its eigenvectors."""
    values, vectors = np.linalg.eigh(matrix)
    return _symmetric((vectors * np.maximum(values, 0.0) ** exponent) @ vectors.T)


def _symmetric(matrix: Array) -> Array:
    return np.asarray((matrix + matrix.T) / 2, dtype=np.float64)


def _require_definite(name: str, matrix: Array, why: str) -> None:
    values = np.linalg.eigvalsh(matrix)
    if values[0] <= values.size * np.finfo(np.float64).eps * values[-1]:
        raise InputError(
            f"{name}: expected a positive definite matrix ({why}), got smallest eigenvalue {values[0]:g}"
        )


@dataclass(frozen=True, eq=False)
class GaussianState:
    """N(m, Σ): the Gaussian p_n of one step.

    Arguments:
        mean: m, shape `(d,)`.
        covariance: Σ, symmetric positive semidefinite, shape `(d, d)`.

    Raises:
        InputError: Wrong shapes, not finite, not symmetric, or a negative eigenvalue.
    """

    mean: Array
    covariance: Array

    def __init__(self, mean: ArrayLike, covariance: ArrayLike) -> None:
        object.__setattr__(self, "mean", _vector("mean", mean))
        object.__setattr__(self, "covariance", _semidefinite("covariance", covariance, self.dim))

    @property
    def dim(self) -> int:
        """Dimension d."""
        return int(self.mean.size)

    @classmethod
    def from_samples(cls, x: ArrayLike) -> GaussianState:
        """The Gaussian of the measured moments of x, shape `(n, d)`; the covariance is divided by n.

        Raises:
            InputError: x is not a finite array of shape `(n, d)`.
        """
        rows = np.asarray(x, dtype=np.float64)
        if rows.ndim != 2 or rows.size == 0:
            raise InputError(f"x: expected rows of shape (n, d), got shape {rows.shape}")
        centred = rows - rows.mean(0)
        return cls(rows.mean(0), centred.T @ centred / len(rows))


@dataclass(frozen=True, eq=False)
class Quadratic:
    """V(x) = (x-b)ᵀ A (x-b)/2.

    Arguments:
        matrix: A, symmetric positive semidefinite, shape `(d, d)`.
        centre: b, shape `(d,)`.

    Raises:
        InputError: Wrong shapes, not finite, not symmetric, or a negative eigenvalue.
    """

    matrix: Array
    centre: Array

    def __init__(self, matrix: ArrayLike, centre: ArrayLike) -> None:
        object.__setattr__(self, "centre", _vector("centre", centre))
        object.__setattr__(self, "matrix", _semidefinite("matrix", matrix, self.dim))

    @classmethod
    def standard(cls, dim: int) -> Quadratic:
        """V(x) = |x|²/2, whose q is the standard normal law."""
        return cls(np.eye(dim), np.zeros(dim))

    @property
    def dim(self) -> int:
        """Dimension d."""
        return int(self.centre.size)

    @property
    def lam(self) -> float:
        """lambda, the smallest eigenvalue of A (0 where A is singular)."""
        return max(0.0, float(np.linalg.eigvalsh(self.matrix)[0]))

    @property
    def equilibrium(self) -> GaussianState:
        """q = N(b, A^{-1}).

        Raises:
            InputError: A is singular, so that exp(-V) has no finite integral.
        """
        _require_definite("matrix", self.matrix, "exp(-V) must have a finite integral")
        return GaussianState(self.centre, symmetric_power(self.matrix, -1.0))


@dataclass(frozen=True, eq=False)
class AffineError:
    """xi(x) = a + S (x - m'): a first-order error that keeps a Gaussian step Gaussian.

    Arguments:
        shift: a, shape `(d,)`.
        matrix: S, symmetric, shape `(d, d)`.

    Raises:
        InputError: Wrong shapes, not finite, or not symmetric.
    """

    shift: Array
    matrix: Array

    def __init__(self, shift: ArrayLike, matrix: ArrayLike) -> None:
        a, s = _vector("shift", shift), np.array(matrix, dtype=np.float64)
        if s.shape != (a.size, a.size) or not np.isfinite(s).all() or not np.allclose(s, s.T):
            raise InputError(f"matrix: expected a finite symmetric matrix of shape {(a.size, a.size)}")
        object.__setattr__(self, "shift", a)
        object.__setattr__(self, "matrix", _symmetric(s))

    def norm(self, after: GaussianState) -> float:
        """‖xi‖ in L²(p_{n+1}): sqrt(|a|² + tr S Σ' S)."""
        spread = float(np.einsum("ij,jk,ki->", self.matrix, after.covariance, self.matrix))
        return math.sqrt(float(self.shift @ self.shift) + max(spread, 0.0))


@dataclass(frozen=True, eq=False)
class AffineMap:
    """T(x) = target + M (x - source).

    Arguments:
        matrix: M = ∇T, shape `(d, d)`.
        source: m, shape `(d,)`.
        target: m' = T(m), shape `(d,)`.
    """

    matrix: Array
    source: Array
    target: Array

    def __call__(self, x: ArrayLike) -> Array:
        """T(x), shape `(n, d)` to `(n, d)`."""
        return np.asarray(self.target + (np.asarray(x, dtype=np.float64) - self.source) @ self.matrix.T)

    @property
    def offset(self) -> Array:
        """T(0) = target - M source, shape `(d,)`."""
        return np.asarray(self.target - self.matrix @ self.source)

    @property
    def log_det(self) -> float:
        """log|det ∇T| in nats, the same at every x."""
        return float(np.linalg.slogdet(self.matrix)[1])


def _check_dims(first: int, second: int) -> None:
    if first != second:
        raise InputError(f"expected Gaussians and potentials of one dimension, got {first} and {second}")


def jko_step(
    state: GaussianState, gamma: float, potential: Quadratic, *, error: AffineError | None = None
) -> GaussianState:
    """p_{n+1} = argmin_p KL(p‖q) + W2²(p, p_n)/(2 gamma), exactly.

    Arguments:
        state: p_n = N(m, Σ); a singular Σ is allowed, Σ' is never singular.
        gamma: Step size > 0 in units of time; `math.inf` is the free step, which ends in q.
        potential: V = -log q + constant.
        error: A first-order error to inject; none by default.

    Raises:
        InputError: gamma is not positive, dimensions differ, a free step under a singular A or with an error,
            or an error so large that `I + gamma (A - S)` is not positive definite.
    """
    _check_dims(state.dim, potential.dim)
    if not gamma > 0:
        raise InputError(f"gamma: expected a step size above 0 (math.inf for the free step), got {gamma}")
    if math.isinf(gamma):
        if error is not None:
            raise InputError("error: a free step has no place for one; give a finite gamma")
        return potential.equilibrium
    force = potential.matrix @ potential.centre
    matrix = potential.matrix
    if error is not None:
        _check_dims(state.dim, error.shift.size)
        force, matrix = force + error.shift, matrix - error.matrix
    identity = np.eye(state.dim)
    mean = np.linalg.solve(identity + gamma * potential.matrix, state.mean + gamma * force)
    return GaussianState(mean, _stepped_covariance(state.covariance, gamma, identity + gamma * matrix))


def _stepped_covariance(covariance: Array, gamma: float, b: Array) -> Array:
    """Σ' = B^{-1/2} X B^{-1/2}."""
    _require_definite("I + gamma (A - S)", b, "the step has a minimiser")
    root = symmetric_power(b, -0.5)
    c, vectors = np.linalg.eigh(_symmetric(root @ covariance @ root))
    c = np.maximum(c, 0.0)
    x = (c + 2 * gamma + np.sqrt(c * (c + 4 * gamma))) / 2
    return _symmetric(root @ (vectors * x) @ vectors.T @ root)


def transport_map(source: GaussianState, target: GaussianState) -> AffineMap:
    """The optimal-transport map from N(m, Σ) to N(m', Σ').

        T(x) = m' + M (x - m),    M = Σ^{-1/2} (Σ^{1/2} Σ' Σ^{1/2})^{1/2} Σ^{-1/2}.

    With `target = jko_step(source, ...)` this is the minimiser of eq. (25), by Lemma 3.3.

    Raises:
        InputError: Dimensions differ, or the source's covariance is singular.
    """
    _check_dims(source.dim, target.dim)
    _require_definite("covariance of the source", source.covariance, "no map leaves a degenerate Gaussian")
    root, inverse_root = symmetric_power(source.covariance, 0.5), symmetric_power(source.covariance, -0.5)
    middle = symmetric_power(_symmetric(root @ target.covariance @ root), 0.5)
    return AffineMap(_symmetric(inverse_root @ middle @ inverse_root), source.mean, target.mean)


def kl(state: GaussianState, potential: Quadratic) -> float:
    """KL(N(m, Σ)‖q) in nats, `(tr AΣ + (m-b)ᵀA(m-b) - d - log det AΣ)/2`; inf where Σ is singular.

    Raises:
        InputError: Dimensions differ, or A is singular, so that q does not exist.
    """
    _check_dims(state.dim, potential.dim)
    _require_definite("matrix", potential.matrix, "exp(-V) must have a finite integral")
    root = symmetric_power(potential.matrix, 0.5)
    ratio = np.linalg.eigvalsh(_symmetric(root @ state.covariance @ root))
    if ratio[0] <= 0:
        return math.inf
    shift = root @ (state.mean - potential.centre)
    return float(0.5 * (shift @ shift + np.sum((ratio - 1) - np.log(ratio))))


def w2(first: GaussianState, second: GaussianState) -> float:
    """W2 distance (not squared) of two Gaussians, singular covariances included.

        W2² = |m1 - m2|² + min_U ‖Σ1^{1/2} - Σ2^{1/2} U‖_F²,    U orthogonal,

    which equals |m1 - m2|² + tr(Σ1 + Σ2 - 2 (Σ2^{1/2} Σ1 Σ2^{1/2})^{1/2}) without its cancellation; the
    best U is the polar factor of Σ2^{1/2} Σ1^{1/2}.

    Raises:
        InputError: Dimensions differ.
    """
    _check_dims(first.dim, second.dim)
    root_1, root_2 = symmetric_power(first.covariance, 0.5), symmetric_power(second.covariance, 0.5)
    left, _, right = np.linalg.svd(root_2 @ root_1)
    bures = root_1 - root_2 @ left @ right
    return math.sqrt(float(np.sum((first.mean - second.mean) ** 2) + np.sum(bures**2)))


def trajectory(
    state: GaussianState, gammas: Iterable[float], potential: Quadratic
) -> tuple[GaussianState, ...]:
    """p_0, p_1, …, p_N: the left fold of exact steps with sizes gamma_1, …, gamma_N.

    Raises:
        InputError: As `jko_step`.
    """
    states = [state]
    for gamma in gammas:
        states.append(jko_step(states[-1], gamma, potential))
    return tuple(states)

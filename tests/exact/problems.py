"""Random problems for the theorems: Gaussians in d dimensions and bumpy laws on the line."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from jkoflow.exact import (
    AffineError,
    GaussianState,
    Quadratic,
    QuantileLaw,
    evaluate,
    field_of_norm,
    jko_step,
    normal_levels,
    quantile_step,
    w2,
)
from jkoflow.exact.functional import Functional, kl_divergence, log_cosh, quadratic

__all__ = ["GaussianRun", "LineRun", "gaussian_run", "line_run", "random_gaussian", "random_law", "seeds"]

Array = NDArray[np.float64]

seeds = st.integers(0, 2**32 - 1)
CELLS = 24


def random_gaussian(rng: np.random.Generator, dim: int) -> GaussianState:
    factor = rng.normal(size=(dim, dim)) * 10 ** rng.uniform(-1, 0.5)
    return GaussianState(3 * rng.normal(size=dim), factor @ factor.T + 1e-3 * np.eye(dim))


def random_law(rng: np.random.Generator, cells: int = CELLS) -> QuantileLaw:
    """Cells of random widths: a density with jumps."""
    gaps = rng.gamma(0.7, size=cells) + 1e-3
    scale = 10 ** rng.uniform(-1, 0.5) * 6 / cells
    masses = np.diff(normal_levels(cells, reach=2.5))
    return QuantileLaw(masses, 2 * rng.normal() + scale * np.cumsum([0.0, *gaps]))


@dataclass(frozen=True)
class GaussianRun:
    """States p_0, ..., p_N under unequal steps with errors eps_1, ..., eps_N measured at the states."""

    potential: Quadratic
    states: tuple[GaussianState, ...]
    gammas: tuple[float, ...]
    errors: tuple[float, ...]

    def w2_to_q(self, n: int) -> float:
        return w2(self.states[n], self.potential.equilibrium)


def gaussian_run(rng: np.random.Generator, *, error_scale: float = 1.0) -> GaussianRun:
    """1 to 6 steps in 1 to 4 dimensions; A, Σ and the errors do not commute."""
    dim = int(rng.integers(1, 5))
    factor = rng.normal(size=(dim, dim))
    matrix = 10 ** rng.uniform(-1, 1) * (factor @ factor.T / dim + 0.05 * np.eye(dim))
    potential = Quadratic(matrix, rng.normal(size=dim))
    states, gammas, errors = [random_gaussian(rng, dim)], [], []
    for _ in range(int(rng.integers(1, 7))):
        gamma = 10 ** rng.uniform(-2, 1.5)
        twist = rng.normal(size=(dim, dim))
        # I + gamma (A - S) stays positive definite for S below A + I/gamma
        stiffest = 0.9 * (potential.lam + 1 / gamma) / np.linalg.norm(twist + twist.T, 2)
        size = error_scale * rng.uniform()
        error = AffineError(size * rng.normal(size=dim), size * stiffest * (twist + twist.T))
        states.append(jko_step(states[-1], gamma, potential, error=error))
        gammas.append(gamma)
        errors.append(error.norm(states[-1]))
    return GaussianRun(potential, tuple(states), tuple(gammas), tuple(errors))


@dataclass(frozen=True)
class LineRun:
    """The same on the line, with the minimiser q of G among laws of these masses."""

    functional: Functional
    laws: tuple[QuantileLaw, ...]
    gammas: tuple[float, ...]
    errors: tuple[float, ...]
    q: QuantileLaw

    @property
    def lam(self) -> float:
        assert self.functional.lam is not None
        return self.functional.lam

    def excess(self, n: int) -> float:
        """G(p_n) - G(q)."""
        return evaluate(self.functional, self.laws[n]) - evaluate(self.functional, self.q)


def line_run(rng: np.random.Generator, *, error_scale: float = 1.0) -> LineRun:
    """1 to 5 steps of KL for V between quadratic and kinked, from a law with jumps."""
    lam, weight = 10 ** rng.uniform(-1, 0.7), 10 ** rng.uniform(-1, 1)
    kink = log_cosh(weight, rng.normal(), 10 ** rng.uniform(-1, 0))
    bowl = quadratic(lam, rng.normal())
    functional = kl_divergence(lambda x: bowl(x) + kink(x), lam=lam, log_z=0.0)
    laws, gammas, errors = [random_law(rng)], [], []
    q = quantile_step(laws[0], math.inf, functional).law
    for _ in range(int(rng.integers(1, 6))):
        gamma, size = 10 ** rng.uniform(-2, 1), error_scale * rng.uniform()
        xi = field_of_norm(laws[-1], rng.normal(size=CELLS + 1), size) if size > 0 else None
        laws.append(quantile_step(laws[-1], gamma, functional, error=xi).law)
        gammas.append(gamma)
        errors.append(size)
    return LineRun(functional, tuple(laws), tuple(gammas), tuple(errors), q)

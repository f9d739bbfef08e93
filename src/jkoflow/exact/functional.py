r"""Functionals G of a law on the line, as the sums of expectations that a proximal step of them needs.

    G(rho) = E[P(x)] + E[h(log rho(x) + R(x))] + E[W(x - x')]/2 + constant,      x, x' ~ rho independent

with h(s) = s for the KL divergence (R = V + log Z, so that s = log rho/q), h(s) = e^{-s} (F(e^s) - F(0)) for
the divergence ∫F(rho/q) q, and R = 0 for an internal energy. Sources: theory, "Section 2-3" and "Which
functionals"; Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (16); McCann (1997) for internal energies.
Everything is NumPy float64, nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import quad

from jkoflow.errors import InputError

__all__ = [
    "DIVERGENCES",
    "Functional",
    "Jet",
    "divergence",
    "internal_energy",
    "kl_divergence",
    "log_cosh",
    "log_normaliser",
    "potential_energy",
    "quadratic",
    "quartic",
]

Array = NDArray[np.float64]


class Jet(NamedTuple):
    """A function of one variable with its first two derivatives, all of the shape of its argument."""

    value: Array
    slope: Array
    curvature: Array

    def __add__(self, other: object) -> Jet:
        """The jet of the sum of two functions, or of a function and a number."""
        if isinstance(other, Jet):
            return Jet(self.value + other.value, self.slope + other.slope, self.curvature + other.curvature)
        if isinstance(other, int | float):
            return Jet(self.value + other, self.slope, self.curvature)
        return NotImplemented


ScalarFunction: TypeAlias = Callable[[Array], Jet]


@dataclass(frozen=True)
class Functional:
    """G(rho) = E[P] + E[h(log rho + R)] + E[W(x - x')]/2 + constant.

    Arguments:
        name: For messages and tables.
        lam: lambda of its convexity along generalised geodesics; None where it is not convex.
        potential: P; None for none.
        density: h; None for none.
        reference: R inside h; None for 0.
        interaction: W, even; None for none.
        constant: Added to the value.
    """

    name: str
    lam: float | None
    potential: ScalarFunction | None = None
    density: ScalarFunction | None = None
    reference: ScalarFunction | None = None
    interaction: ScalarFunction | None = None
    constant: float = 0.0

    @property
    def is_convex(self) -> bool:
        """Whether a proximal step of it has one minimiser and no other stationary point."""
        return self.lam is not None


# ── functions of one variable ──


def quadratic(curvature: float, centre: float = 0.0) -> ScalarFunction:
    """V(x) = a (x - b)²/2, with lambda = a."""
    _require_convex("curvature", curvature)

    def function(x: Array) -> Jet:
        shift = x - centre
        return Jet(curvature * shift**2 / 2, curvature * shift, np.full_like(x, curvature))

    return function


def log_cosh(weight: float, centre: float = 0.0, width: float = 1.0) -> ScalarFunction:
    """V(x) = w log cosh((x - c)/l): convex, between quadratic and linear growth; lambda = 0 by itself."""
    _require_convex("weight", weight)

    def function(x: Array) -> Jet:
        t = (x - centre) / width
        tanh = np.tanh(t)
        value = np.abs(t) + np.log1p(np.exp(-2 * np.abs(t))) - math.log(2)
        return Jet(weight * value, weight * tanh / width, weight * (1 - tanh**2) / width**2)

    return function


def quartic(weight: float, centre: float = 0.0) -> ScalarFunction:
    """V(x) = w (x - c)⁴/4: convex with V'' = 0 at c, so lambda = 0."""
    _require_convex("weight", weight)

    def function(x: Array) -> Jet:
        t = x - centre
        return Jet(weight * t**4 / 4, weight * t**3, 3 * weight * t**2)

    return function


def log_normaliser(potential: ScalarFunction, *, centre: float = 0.0) -> float:
    """log Z = log ∫ e^{-V}, nats, by adaptive quadrature.

    Arguments:
        potential: V.
        centre: A point where e^{-V} is not negligible.

    Raises:
        InputError: The integral is not finite and positive.
    """
    lowest = float(potential(np.array([centre])).value[0])

    def integrand(x: float) -> float:
        return math.exp(min(lowest - float(potential(np.array([x])).value[0]), 700.0))

    halves = [
        quad(integrand, *ends, epsabs=0, epsrel=1e-12, limit=400)[0]
        for ends in ((-math.inf, centre), (centre, math.inf))
    ]
    total = math.fsum(halves)
    if not (math.isfinite(total) and total > 0):
        raise InputError(f"potential: expected exp(-V) to have a finite integral > 0, got {total}")
    return math.log(total) - lowest


def _require_convex(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"{name}: expected a finite number >= 0, so that V is convex, got {value}")


# ── functionals ──


def potential_energy(potential: ScalarFunction, *, lam: float) -> Functional:
    """E[P(x)], lambda-convex with the lambda of P."""
    return Functional("potential energy", lam, potential=potential)


def kl_divergence(potential: ScalarFunction, *, lam: float, log_z: float | None = None) -> Functional:
    """KL(rho‖q), q ∝ e^{-V}, lambda-convex with the lambda of V (theory, "Which functionals").

    Arguments:
        potential: V, convex.
        lam: V'' >= lambda everywhere.
        log_z: log ∫ e^{-V}; computed where it is None.
    """
    return _relative("kl", potential, lam, log_z)


def divergence(
    name: str, potential: ScalarFunction, *, log_z: float | None = None, lam: float = 0.0
) -> Functional:
    """∫F(rho/q) q for q ∝ e^{-V} with convex V; see `DIVERGENCES` for the names.

    KL keeps `lam`; chi² is convex (lambda = 0) for log-concave q; reverse KL, Hellinger and Jensen-Shannon
    are not convex along geodesics in general, and say so by `lam` None.

    Raises:
        InputError: An unknown name.
    """
    if name not in DIVERGENCES:
        raise InputError(f"divergence: expected one of {sorted(DIVERGENCES)}, got {name!r}")
    return _relative(name, potential, lam, log_z)


def internal_energy(exponent: float) -> Functional:
    """∫rho^m/(m - 1): McCann's condition holds for m > 1 on the line, so it is convex with lambda = 0.

    Raises:
        InputError: exponent <= 1.
    """
    if not exponent > 1:
        raise InputError(
            f"exponent: expected m > 1, got {exponent}; m = 1 is the entropy of the KL divergence"
        )
    power = exponent - 1

    def density(s: Array) -> Jet:
        value = np.exp(power * s) / power
        return Jet(value, power * value, power**2 * value)

    return Functional(f"internal energy {exponent:g}", 0.0, density=density)


def _relative(name: str, potential: ScalarFunction, lam: float, log_z: float | None) -> Functional:
    shift = log_normaliser(potential) if log_z is None else log_z
    parts = DIVERGENCES[name]()
    return Functional(
        name,
        {"lambda": lam, "convex": 0.0, "none": None}[parts.convexity],
        density=parts.density,
        reference=lambda x: potential(x) + shift,
        constant=parts.at_zero,
    )


# ── divergences ──


class _Divergence(NamedTuple):
    """h; which lambda the divergence has: that of V, 0 as it is convex, or none; and F(0)."""

    density: ScalarFunction
    convexity: Literal["lambda", "convex", "none"]
    at_zero: float = 0.0


def _kl() -> _Divergence:
    """F(u) = u log u: h = s."""
    return _Divergence(lambda s: Jet(s, np.ones_like(s), np.zeros_like(s)), "lambda")


def _reverse_kl() -> _Divergence:
    """F(u) = u - 1 - log u, over the support of rho alone, since F(0) is infinite: h = 1 - (1 + s) e^{-s}."""

    def density(s: Array) -> Jet:
        decay = np.exp(-s)
        return Jet(1 - (1 + s) * decay, s * decay, (1 - s) * decay)

    return _Divergence(density, "none")


def _chi2() -> _Divergence:
    """F(u) = u² - u, the same divergence as (u - 1)²: h = e^s - 1."""

    def density(s: Array) -> Jet:
        ratio = np.exp(s)
        return Jet(ratio - 1, ratio, ratio)

    return _Divergence(density, "convex")


def _hellinger() -> _Divergence:
    """F(u) = (√u - 1)², F(0) = 1: h = 1 - 2 e^{-s/2}."""

    def density(s: Array) -> Jet:
        root = np.exp(-s / 2)
        return Jet(1 - 2 * root, root, -root / 2)

    return _Divergence(density, "none", at_zero=1.0)


def _jensen_shannon() -> _Divergence:
    """F(u) = (u log u - (1 + u) log((1 + u)/2))/2, F(0) = log(2)/2, with w = u/(1 + u).

    h = (s - log(1 + u) + log 2)/2 - e^{-s} log(1 + u)/2 and, by differentiation, h' = e^{-s} log(1 + u)/2.
    """

    def density(s: Array) -> Jet:
        log_1_u = np.logaddexp(0.0, s)
        weighted = np.exp(-s) * log_1_u
        share = np.exp(s - log_1_u)
        value = (s - log_1_u + math.log(2) - weighted) / 2
        return Jet(value, weighted / 2, (np.exp(-s) * share - weighted) / 2)

    return _Divergence(density, "none", at_zero=math.log(2) / 2)


DIVERGENCES: dict[str, Callable[[], _Divergence]] = {
    "kl": _kl,
    "reverse_kl": _reverse_kl,
    "chi2": _chi2,
    "hellinger": _hellinger,
    "jensen_shannon": _jensen_shannon,
}
"""Every divergence that `divergence` knows, by name."""

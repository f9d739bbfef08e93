"""The step on the line against the Gaussian closed form, its own optimality, and other functionals."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.special import ndtri

from jkoflow.errors import InputError
from jkoflow.exact import GaussianState, Quadratic, jko_step
from jkoflow.exact.functional import (
    DIVERGENCES,
    Functional,
    divergence,
    internal_energy,
    kl_divergence,
    log_cosh,
    potential_energy,
    quadratic,
    quartic,
)
from jkoflow.exact.quantile import QuantileLaw, field_of_norm, normal_levels
from jkoflow.exact.quantile_problem import StepProblem
from jkoflow.exact.quantile_step import evaluate, quantile_step, quantile_trajectory

Array = NDArray[np.float64]

STANDARD = kl_divergence(quadratic(1.0), lam=1.0)


def normal_law(mean: float = 0.0, std: float = 1.0, *, cells: int = 200) -> QuantileLaw:
    return QuantileLaw.from_quantiles(lambda u: mean + std * ndtri(u), normal_levels(cells))


def bumpy_law(seed: int, *, cells: int = 60) -> QuantileLaw:
    """Random gaps: a density with jumps, far from normal."""
    rng = np.random.default_rng(seed)
    gaps = rng.gamma(0.7, size=cells) + 1e-3
    return QuantileLaw(np.diff(normal_levels(cells, reach=2.5)), rng.normal() + np.cumsum([0.0, *gaps]) / 10)


def attraction(strength: float) -> Functional:
    """E[a |x - x'|²]/4 plus a confining potential: the interaction is quadratic, so it has a closed form."""
    return Functional("attraction", 1.0, potential=quadratic(1.0), interaction=quadratic(strength))


FUNCTIONALS: dict[str, Functional] = {
    **{name: divergence(name, quadratic(1.3, 0.2), lam=1.3) for name in DIVERGENCES},
    "kl, log cosh": kl_divergence(lambda x: quadratic(0.5)(x) + log_cosh(2.0, 0.4, 0.3)(x), lam=0.5),
    "kl, quartic": kl_divergence(quartic(1.0), lam=0.0),
    "internal": internal_energy(2.0),
    "potential": potential_energy(quadratic(0.7, 1.0), lam=0.7),
    "sum": Functional(
        "sum",
        0.5,
        potential=quadratic(0.5),
        density=internal_energy(1.5).density,
        interaction=log_cosh(0.8, width=0.5),
    ),
}


# ── the closed form ──


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.5, math.inf])
def test_step_of_a_gaussian_is_the_closed_form(gamma: float) -> None:
    law = normal_law(3.0, 0.5)
    after = quantile_step(law, gamma, kl_divergence(quadratic(2.0, 0.3), lam=2.0)).law
    exact = jko_step(GaussianState([law.mean], [[law.variance]]), gamma, Quadratic([[2.0]], [0.3]))
    assert after.mean == pytest.approx(exact.mean[0], abs=1e-9)
    assert math.sqrt(after.variance) == pytest.approx(math.sqrt(exact.covariance[0, 0]), abs=2e-7)


def test_error_against_the_continuous_problem_falls_with_the_cells() -> None:
    """At least as n^-2: with twice the cells the standard deviation is four times as near or nearer."""
    errors = []
    for cells in (50, 100, 200, 400):
        law = normal_law(1.0, 2.0, cells=cells)
        after = quantile_step(law, 0.5, STANDARD).law
        exact = jko_step(GaussianState([1.0], [[4.0]]), 0.5, Quadratic.standard(1))
        errors.append(abs(math.sqrt(after.variance) - math.sqrt(exact.covariance[0, 0])))
    ratios = [before / after for before, after in itertools.pairwise(errors)]
    assert min(ratios) > 3.9


def test_free_step_of_kl_ends_in_q() -> None:
    after = quantile_step(normal_law(2.0, 3.0), math.inf, STANDARD).law
    assert evaluate(STANDARD, after) == pytest.approx(0.0, abs=2e-4)
    assert (after.mean, after.variance) == pytest.approx((0.0, 1.0), abs=1e-3)


def test_interaction_of_quadratic_type_is_a_potential_about_the_mean() -> None:
    """E|x - x'|²/2 = Var x: every particle relaxes to the mean at rate a, the mean to 0 at rate 1."""
    law, gamma, strength = bumpy_law(3), 0.4, 0.8
    after = quantile_step(law, gamma, attraction(strength)).law
    mean = law.mean / (1 + gamma)
    expected = mean + (law.knots - law.mean) / (1 + gamma * (1 + strength))
    np.testing.assert_allclose(after.knots, expected, atol=1e-9)


def test_potential_alone_moves_every_particle_by_its_own_step() -> None:
    law = bumpy_law(4)
    after = quantile_step(law, 0.3, FUNCTIONALS["potential"]).law
    np.testing.assert_allclose(after.knots, (law.knots + 0.3 * 0.7) / (1 + 0.3 * 0.7), atol=1e-9)


# ── optimality ──


@pytest.mark.parametrize("name", FUNCTIONALS)
@pytest.mark.parametrize("gamma", [0.05, 0.5])
def test_first_order_condition_and_local_optimality(name: str, gamma: float) -> None:
    functional = FUNCTIONALS[name]
    law = normal_law(0.6, 1.2, cells=80)
    step = quantile_step(law, gamma, functional)
    assert step.residual <= (1e-10 if functional.is_convex else 1e-8)
    assert step.kind == ("minimiser" if functional.is_convex else "stationary point")

    def objective(knots: Array) -> float:
        other = law.at(knots)
        return evaluate(functional, other) + law.w2(other) ** 2 / (2 * gamma)

    lowest, rng = objective(step.law.knots), np.random.default_rng(0)
    for size in (1e-3, 1e-2):
        for _ in range(10):
            stretch = np.cumsum(np.diff(step.law.knots) * np.exp(size * rng.normal(size=law.masses.size)))
            shift = step.law.knots[0] + size * rng.normal()
            moved = np.concatenate([[0.0], stretch]) + shift
            assert objective(moved) > lowest


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_derivatives_are_those_of_the_value(name: str) -> None:
    """The residual at a point that is no solution: its integral along a line is the change of the value.

    Seen through injected errors: with xi = the gradient at X itself, X is the solution.
    """
    functional = FUNCTIONALS[name]
    law = normal_law(0.3, 1.1, cells=30)
    direction = np.sin(law.knots) + 0.3
    field = gradient_field(functional, law)

    def slope(t: float) -> float:
        at = law.at(law.knots + t * direction)
        return at.inner(gradient_field(functional, at), direction)

    rise = evaluate(functional, law.at(law.knots + 0.1 * direction)) - evaluate(functional, law)
    assert rise == pytest.approx(quad(slope, 0.0, 0.1, epsrel=1e-11)[0], rel=1e-8)
    after = quantile_step(law, 0.5, functional, error=field)
    np.testing.assert_allclose(after.law.knots, law.knots, atol=1e-8)


def gradient_field(functional: Functional, law: QuantileLaw) -> Array:
    """The Wasserstein gradient of G at the knots: M^{-1} of the derivative, by a dense solve."""
    problem = StepProblem(functional, law, math.inf, np.zeros_like(law.knots), nodes=4)
    mass = np.stack([law.lower(row) for row in np.eye(law.knots.size)])
    return np.asarray(np.linalg.solve(mass, problem.local(law.knots).gradient))


@pytest.mark.parametrize("eps", [1e-6, 0.05, 0.5])
def test_injected_error_is_the_first_order_residual(eps: float) -> None:
    """xi = G' + (X' - X)/gamma (29) has the norm that was asked for, with the step's own transport."""
    law, gamma = bumpy_law(1), 0.7
    xi = field_of_norm(law, np.cos(3 * np.linspace(0, 1, law.knots.size)), eps)
    after = quantile_step(law, gamma, STANDARD, error=xi).law
    found = gradient_field(STANDARD, after) + (after.knots - law.knots) / gamma
    np.testing.assert_allclose(found, xi, atol=1e-8 * (1 + eps))
    assert after.norm(found) == pytest.approx(eps, rel=1e-6)


# ── the laws ──


def test_moments_and_distance_of_piecewise_uniform_laws() -> None:
    law = QuantileLaw([0.5, 0.25, 0.25], [0.0, 1.0, 2.0, 4.0])
    assert law.mean == pytest.approx(0.5 * 0.5 + 0.25 * 1.5 + 0.25 * 3)
    second = 0.5 / 3 + 0.25 * 7 / 3 + 0.25 * (64 - 8) / 3 / 2
    assert law.variance == pytest.approx(second - law.mean**2)
    np.testing.assert_allclose(law.density, [0.5, 0.25, 0.125])
    assert law.w2(law.at(law.knots + 0.7)) == pytest.approx(0.7)
    scaled = law.at(law.mean + 3 * (law.knots - law.mean))
    assert law.w2(scaled) == pytest.approx(2 * math.sqrt(law.variance))


def test_w2_is_the_integral_of_the_squared_gap_of_quantiles() -> None:
    first, second = bumpy_law(1), bumpy_law(2)
    levels = np.concatenate([[0.0], np.cumsum(first.masses)])

    def gap(u: float) -> float:
        return float(np.interp(u, levels, first.knots) - np.interp(u, levels, second.knots)) ** 2

    total = math.fsum(quad(gap, *ends)[0] for ends in itertools.pairwise(levels))
    assert first.w2(second) == pytest.approx(math.sqrt(total), rel=1e-9)


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("kl", lambda m, s: (s**2 + m**2 - 1) / 2 - math.log(s)),
        ("reverse_kl", lambda m, s: (1 / s**2 + m**2 / s**2 - 1) / 2 + math.log(s)),
        ("chi2", lambda m, s: math.exp(m**2 / (2 - s**2)) / (s * math.sqrt(2 - s**2)) - 1),
        (
            "hellinger",
            lambda m, s: 2 - 2 * math.sqrt(2 * s / (1 + s**2)) * math.exp(-(m**2) / (4 * (1 + s**2))),
        ),
    ],
)
def test_divergences_of_gaussians(name: str, exact: Any) -> None:
    """Between N(m, s²) and N(0, 1)."""
    functional = divergence(name, quadratic(1.0), lam=1.0)
    value = evaluate(functional, normal_law(0.3, 1.2, cells=2000))
    assert value == pytest.approx(exact(0.3, 1.2), abs=5e-5)


def test_jensen_shannon_of_gaussians_by_quadrature() -> None:
    def density(x: float, mean: float, std: float) -> float:
        return math.exp(-(((x - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))

    def integrand(x: float) -> float:
        p, q = density(x, 0.3, 1.2), density(x, 0.0, 1.0)
        middle = (p + q) / 2
        return (p * math.log(p / middle) + q * math.log(q / middle)) / 2

    functional = divergence("jensen_shannon", quadratic(1.0), lam=1.0)
    expected = quad(integrand, -9, 9, epsabs=1e-12)[0]
    assert evaluate(functional, normal_law(0.3, 1.2, cells=2000)) == pytest.approx(expected, abs=1e-6)


def test_trajectory_is_the_fold_of_steps() -> None:
    law = bumpy_law(5)
    first = quantile_step(law, 0.2, STANDARD).law
    second = quantile_step(first, 0.4, STANDARD).law
    laws = quantile_trajectory(law, [0.2, 0.4], STANDARD)
    np.testing.assert_array_equal(laws[2].knots, second.knots)
    assert laws[0] is law


# ── refusals ──


@pytest.mark.parametrize(
    ("masses", "knots", "words"),
    [
        ([0.5, 0.5], [0.0, 1.0], "one more than the 2 masses"),
        ([0.5, 0.6], [0.0, 1.0, 2.0], "sum 1"),
        ([1.5, -0.5], [0.0, 1.0, 2.0], "positive"),
        ([0.5, 0.5], [0.0, 2.0, 1.0], "increasing"),
        ([0.5, 0.5], [0.0, 1.0, math.inf], "finite"),
    ],
)
def test_wrong_laws_are_refused(masses: list[float], knots: list[float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        QuantileLaw(masses, knots)


def test_wrong_steps_are_refused() -> None:
    law = bumpy_law(1)
    with pytest.raises(InputError, match="gamma: expected a step size above 0"):
        quantile_step(law, 0.0, STANDARD)
    with pytest.raises(InputError, match="one value for each"):
        quantile_step(law, 0.5, STANDARD, error=np.zeros(3))
    with pytest.raises(InputError, match="same masses"):
        law.w2(normal_law())
    with pytest.raises(InputError, match="not zero everywhere"):
        field_of_norm(law, np.zeros_like(law.knots), 1.0)
    with pytest.raises(InputError, match="at least 2 cells"):
        normal_levels(1)
    with pytest.raises(InputError, match=r"expected one of \['chi2'"):
        divergence("total_variation", quadratic(1.0))
    with pytest.raises(InputError, match="m > 1"):
        internal_energy(1.0)
    with pytest.raises(InputError, match="curvature"):
        quadratic(-1.0)

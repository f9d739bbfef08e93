"""The inequalities of the theory in hundreds of random cases, with exact engines and injected errors."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.integrate import quad

from exact.problems import gaussian_run, line_run, random_gaussian, random_law, seeds
from jkoflow import bounds
from jkoflow.exact import (
    GaussianState,
    Quadratic,
    evaluate,
    jko_step,
    kl,
    quantile_step,
    transport_map,
    w2,
)
from jkoflow.exact.functional import (
    Functional,
    divergence,
    internal_energy,
    kl_divergence,
    quadratic,
    quartic,
)

MANY = settings(max_examples=200, deadline=None)
SOME = settings(max_examples=100, deadline=None)
ROUNDING = 1e-7
"""Relative; square roots of matrices and Newton's method leave less."""


def holds(measured: float, bound: float, scale: float = 0.0) -> bool:
    return measured <= bound + ROUNDING * (abs(bound) + scale) + 1e-12


# ── Section 4, Gaussians in d dimensions ──


@MANY
@given(seeds)
def test_forward_convergence_of_gaussians(seed: int) -> None:
    """Theorem 4.3 with unequal steps and its sharper form, W2 and KL after every step."""
    run = gaussian_run(np.random.default_rng(seed))
    lam, start = run.potential.lam, run.w2_to_q(0)
    for n in range(1, len(run.states)):
        gammas, errors, before = run.gammas[:n], run.errors[:n], run.w2_to_q(n - 1)
        distance, divergence_nats = run.w2_to_q(n), kl(run.states[n], run.potential)
        assert holds(distance**2, bounds.forward_w2_squared(start, gammas, errors, lam), start**2)
        assert holds(distance, bounds.sharp_w2(start, gammas, errors, lam), start)
        assert holds(divergence_nats, bounds.last_step_kl(before, gammas[-1], lam, errors[-1]))
        assert holds(divergence_nats, bounds.sharp_last_step_kl(before, gammas[-1], lam, errors[-1]))
        assert holds(divergence_nats, bounds.forward_kl(start, gammas, errors, lam))


@MANY
@given(seeds)
def test_evi_for_any_gaussian(seed: int) -> None:
    """Lemma 4.2 (34), against a pi that has nothing to do with the run."""
    rng = np.random.default_rng(seed)
    run = gaussian_run(rng)
    before, after, gamma, lam = *run.states[:2], run.gammas[0], run.potential.lam
    pi = random_gaussian(rng, before.dim)
    left = (1 + gamma * lam / 2) * w2(after, pi) ** 2
    left += 2 * gamma * (kl(after, run.potential) - kl(pi, run.potential))
    right = bounds.evi_gap(w2(before, pi), gamma, lam, run.errors[0])
    assert holds(left, right, w2(after, pi) ** 2 + gamma * kl(pi, run.potential))


@MANY
@given(seeds)
def test_exact_steps_of_gaussians_contract(seed: int) -> None:
    run = gaussian_run(np.random.default_rng(seed), error_scale=0.0)
    for n, gamma in enumerate(run.gammas):
        before, after = run.w2_to_q(n), run.w2_to_q(n + 1)
        assert holds(after**2, bounds.contraction_squared(gamma, run.potential.lam) * before**2)


@SOME
@given(seeds)
def test_after_the_blocks_that_are_needed(seed: int) -> None:
    """(36)-(37) and Corollary 5.2, the reverse process included (Lemma 5.1)."""
    rng = np.random.default_rng(seed)
    dim, lam = int(rng.integers(1, 4)), rng.uniform(0.3, 1.0)
    gamma = rng.uniform(0.3, 1.9)
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    potential = Quadratic((basis * np.append(lam, rng.uniform(lam, 1.5, dim - 1))) @ basis.T, np.zeros(dim))
    eps, start = 10 ** rng.uniform(-2, -0.5), random_gaussian(rng, dim)
    states, maps = [start], []
    q = potential.equilibrium
    for _ in range(bounds.blocks_needed(w2(start, q), gamma, lam, eps)):
        direction = rng.normal(size=dim)
        # all of the error in the mean, so that its norm is eps at every step
        tilt = Quadratic(potential.matrix, np.linalg.solve(potential.matrix, unit(direction) * eps))
        states.append(jko_step(states[-1], gamma, tilt))
        maps.append(transport_map(states[-2], states[-1]))
    assert holds(w2(states[-2], q), math.sqrt(5) * eps / lam)
    forward = kl(states[-1], potential)
    assert holds(forward, bounds.generation_kl(gamma, lam, eps))
    matrix, image = np.eye(dim), start.mean
    for block in maps:
        matrix, image = block.matrix @ matrix, block(image[None])[0]
    pulled = Quadratic(matrix.T @ potential.matrix @ matrix, start.mean - np.linalg.solve(matrix, image))
    assert kl(start, pulled) == pytest.approx(forward, rel=1e-5, abs=1e-9)
    assert math.sqrt(forward / 2) <= bounds.generation_tv(gamma, lam, eps) + ROUNDING


def unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / np.linalg.norm(vector))


# ── Section 4, any law on the line ──


@MANY
@given(seeds)
def test_forward_convergence_on_the_line(seed: int) -> None:
    run = line_run(np.random.default_rng(seed))
    start = run.laws[0].w2(run.q)
    for n in range(1, len(run.laws)):
        gammas, errors, before = run.gammas[:n], run.errors[:n], run.laws[n - 1].w2(run.q)
        distance, excess = run.laws[n].w2(run.q), run.excess(n)
        assert holds(distance**2, bounds.forward_w2_squared(start, gammas, errors, run.lam), start**2)
        assert holds(distance, bounds.sharp_w2(start, gammas, errors, run.lam), start)
        assert holds(excess, bounds.last_step_kl(before, gammas[-1], run.lam, errors[-1]))
        assert holds(excess, bounds.sharp_last_step_kl(before, gammas[-1], run.lam, errors[-1]))
        assert holds(excess, bounds.forward_kl(start, gammas, errors, run.lam))


@MANY
@given(seeds)
def test_evi_and_contraction_on_the_line(seed: int) -> None:
    rng = np.random.default_rng(seed)
    run = line_run(rng)
    pi, gamma, (before, after) = random_law(rng), run.gammas[0], run.laws[:2]
    rise = evaluate(run.functional, after) - evaluate(run.functional, pi)
    left = (1 + gamma * run.lam / 2) * after.w2(pi) ** 2 + 2 * gamma * rise
    right = bounds.evi_gap(before.w2(pi), gamma, run.lam, run.errors[0])
    assert holds(left, right, after.w2(pi) ** 2 + gamma * abs(rise))
    exact = quantile_step(before, gamma, run.functional).law
    contracted = bounds.contraction_squared(gamma, run.lam) * before.w2(run.q) ** 2
    assert holds(exact.w2(run.q) ** 2, contracted)


@SOME
@given(seeds)
def test_monotonicity_on_the_line(seed: int) -> None:
    """Lemma 4.1; on the line every generalised geodesic is one of quantile functions, whatever nu is."""
    rng = np.random.default_rng(seed)
    run = line_run(rng)
    rho, pi, functional = run.laws[-1], random_law(rng), run.functional
    # one step with the error xi = 0 has gradient (X_0 - X_1)/gamma at X_1
    after = quantile_step(rho, 0.3, functional).law
    gradient = (rho.knots - after.knots) / 0.3
    inner = rho.inner(pi.knots - after.knots, gradient)
    gap = bounds.monotonicity_gap(inner, pi.w2(after), run.lam)
    rise = evaluate(functional, pi) - evaluate(functional, after)
    assert holds(gap, rise, abs(inner) + abs(rise))


CONVEX: dict[str, Functional] = {
    "kl, quartic": kl_divergence(quartic(1.0), lam=0.0),
    "chi2": divergence("chi2", quadratic(1.0)),
    "chi2, quartic": divergence("chi2", quartic(0.5)),
    "internal and potential": Functional(
        "internal and potential", 0.0, potential=quartic(1.0), density=internal_energy(2.0).density
    ),
    "interaction": Functional(
        "interaction",
        0.0,
        potential=quartic(0.3),
        interaction=quartic(0.5),
        density=internal_energy(3).density,
    ),
}


@pytest.mark.parametrize("name", CONVEX)
@settings(max_examples=20, deadline=None)
@given(seeds)
def test_algebraic_rate_of_convex_functionals(name: str, seed: int) -> None:
    """lambda = 0: G(p_n) - G* <= W2²(p_0, q)/(2 gamma n)."""
    rng, functional = np.random.default_rng(seed), CONVEX[name]
    law, gamma = random_law(rng, 16), 10 ** rng.uniform(-1.5, 0.5)
    law = law.at(2.5 * law.knots / max(2.5, np.abs(law.knots).max()))  # where chi2 is finite in floats
    q = quantile_step(law, math.inf, functional).law
    lowest, start = evaluate(functional, q), law.w2(q)
    for n in range(1, 8):
        law = quantile_step(law, gamma, functional).law
        excess = evaluate(functional, law) - lowest
        assert holds(excess, bounds.algebraic_rate(start, gamma, n), abs(lowest))


# ── Section 5 and beyond ──


@MANY
@given(seeds)
def test_smoothing_of_any_gaussian(seed: int) -> None:
    """Lemma C.1, singular data included: atoms and subspaces are Gaussians of low rank."""
    rng = np.random.default_rng(seed)
    dim = int(rng.integers(1, 5))
    factor = rng.normal(size=(dim, int(rng.integers(1, dim + 1)))) * rng.choice([0.0, 1.0])
    data, time = GaussianState(2 * rng.normal(size=dim), factor @ factor.T), 10 ** rng.uniform(-4, 1)
    noise = -math.expm1(-2 * time) * np.eye(dim)
    smooth = GaussianState(math.exp(-time) * data.mean, math.exp(-2 * time) * data.covariance + noise)
    moment = float(data.mean @ data.mean + np.trace(data.covariance))
    bound = bounds.smoothing_w2_squared(moment, dim, time)
    assert holds(w2(data, smooth) ** 2, bound, 1e-2 * moment)
    assert holds(bound, time * (moment + 2 * dim))
    delta = 10 ** rng.uniform(-2, 1)
    within = bounds.smoothing_w2_squared(moment, dim, bounds.smoothing_time(moment, dim, delta))
    assert holds(within, delta**2)


@MANY
@given(seeds)
def test_inversion_error_of_affine_flows(seed: int) -> None:
    """Proposition 5.4 by blocks: T∘S - id is a constant of norm eps_inv in every block."""
    rng = np.random.default_rng(seed)
    run = gaussian_run(rng)
    exact = inexact = run.states[-1]
    errors, lipschitz = [], []
    for before, after in reversed(list(itertools.pairwise(run.states))):
        block = transport_map(before, after)
        error = rng.normal(size=before.dim) * 10 ** rng.uniform(-3, 0)
        errors.append(float(np.linalg.norm(error)))
        inverse = np.linalg.inv(block.matrix)
        lipschitz.append(float(np.linalg.norm(inverse, 2)))
        exact, inexact = (
            GaussianState(
                block.source + inverse @ (state.mean + shift - block.target),
                (inverse @ state.covariance @ inverse.T + (inverse @ state.covariance @ inverse.T).T) / 2,
            )
            for state, shift in ((exact, np.zeros(before.dim)), (inexact, error))
        )
    bound = bounds.inversion_w2_by_block(errors[::-1], lipschitz[::-1])
    # the covariances are the same, so W2 is the distance of the means, without the root of a rounding
    assert holds(float(np.linalg.norm(exact.mean - inexact.mean)), bound, np.abs(exact.mean).max())


@SOME
@given(seeds)
def test_forms_of_the_inversion_bound_are_ordered(seed: int) -> None:
    """The sum of (41) is below its closed form, and with N of Corollary 5.2 below Corollary 5.5."""
    rng = np.random.default_rng(seed)
    gamma, lam, constant = rng.uniform(0.05, 1.9), rng.uniform(0.3, 1.0), rng.uniform(0.05, 2.0)
    eps, start, inversion = 10 ** rng.uniform(-2, 0), 10 ** rng.uniform(-1, 1), 10 ** rng.uniform(-6, 0)
    n_blocks = bounds.blocks_needed(start, gamma, lam, eps)
    total = bounds.inversion_w2(inversion, gamma, constant, n_blocks)
    closed = bounds.inversion_w2_closed(inversion, gamma, constant, n_blocks)
    assert holds(total, closed)
    assert holds(closed, bounds.mixed_w2(start, gamma, lam, eps, constant, inversion))


@MANY
@given(seeds)
def test_fisher_talagrand_and_the_last_block(seed: int) -> None:
    run = gaussian_run(np.random.default_rng(seed))
    potential, last, lam = run.potential, run.states[-1], run.potential.lam
    divergence_nats = kl(last, potential)
    fisher = math.sqrt(relative_fisher(last, potential))
    assert holds(divergence_nats, bounds.fisher_kl(fisher, lam))
    assert holds(fisher, run.errors[-1] + w2(run.states[-2], last) / run.gammas[-1])
    assert holds(w2(last, potential.equilibrium), bounds.talagrand_w2(divergence_nats, lam))


def relative_fisher(state: GaussianState, potential: Quadratic) -> float:
    """E|∇V + ∇log p|² of a Gaussian."""
    gap = potential.matrix - np.linalg.inv(state.covariance)
    shift = potential.matrix @ (state.mean - potential.centre)
    return float(shift @ shift + np.einsum("ij,jk,ki->", gap, state.covariance, gap))


def diffused(state: GaussianState, time: float, lam: float) -> GaussianState:
    """The law of the diffusion (7) for V = lambda |x|²/2 at a time."""
    decay = math.exp(-lam * time)
    noise = -math.expm1(-2 * lam * time) / lam * np.eye(state.dim)
    return GaussianState(decay * state.mean, decay**2 * state.covariance + noise)


@MANY
@given(seeds)
def test_diffusion_decays(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dim, lam, time = int(rng.integers(1, 5)), rng.uniform(0.2, 3.0), 10 ** rng.uniform(-2, 1)
    state, potential = random_gaussian(rng, dim), Quadratic(lam * np.eye(dim), np.zeros(dim))
    later, q = diffused(state, time, lam), potential.equilibrium
    assert holds(w2(later, q), bounds.diffusion_w2(w2(state, q), time, lam), 1e-1)
    assert holds(kl(later, potential), bounds.diffusion_kl(kl(state, potential), time, lam))


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_dissipation_identity(seed: int) -> None:
    """KL(p‖q) is the integral of the relative Fisher information along the diffusion."""
    rng = np.random.default_rng(seed)
    dim, lam = int(rng.integers(1, 4)), rng.uniform(0.5, 2.0)
    state, potential = random_gaussian(rng, dim), Quadratic(lam * np.eye(dim), np.zeros(dim))

    def integrand(log_time: float) -> float:
        time = math.exp(log_time)
        return time * relative_fisher(diffused(state, time, lam), potential)

    total = quad(integrand, -20, math.log(30 / lam), limit=400, epsrel=1e-10)[0]
    assert total == pytest.approx(kl(state, potential), rel=1e-5)


@SOME
@given(seeds)
def test_step_with_an_error_is_the_exact_step_from_elsewhere(seed: int) -> None:
    """With the error xi from X it is the exact one from X + gamma xi, where that is a law."""
    rng = np.random.default_rng(seed)
    law, gamma = random_law(rng), 10 ** rng.uniform(-2, 0.5)
    functional = kl_divergence(quadratic(1.0), lam=1.0)
    elsewhere = law.at(np.sort(law.knots + gamma * rng.normal(size=law.knots.size)))
    after = quantile_step(law, gamma, functional, error=(elsewhere.knots - law.knots) / gamma).law
    exact = quantile_step(elsewhere, gamma, functional).law
    np.testing.assert_allclose(after.knots, exact.knots, atol=1e-8)

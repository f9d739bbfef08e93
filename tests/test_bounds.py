"""Every bound at a case worked out by hand: a wrong constant, exponent or sign changes the ratio.

Mean shifts: V = lambda |x|²/2 and p_n = N(m_n, I/lambda), which differ from q by the mean alone. An error
xi = eps in the direction of the mean gives

    m_{n+1} = (m_n + gamma eps)/(1 + gamma lambda),    W2(p_n, q) = |m_n|,    KL(p_n‖q) = lambda |m_n|²/2.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from jkoflow import bounds
from jkoflow.errors import InputError
from jkoflow.exact import AffineError, GaussianState, Quadratic, jko_step, kl, w2

CLOSE = 1e-6
CASES = [(0.1, 1.0), (0.5, 1.0), (1.5, 1.0), (0.7, 0.3), (1.9, 0.9)]
"""gamma and lambda with gamma lambda <= 2."""

EPS, START = 0.2, 1.7


def shifted(mean: float, lam: float) -> GaussianState:
    return GaussianState([mean, 0.0], np.eye(2) / lam)


def stepped(mean: float, gamma: float, lam: float, eps: float = 0.0) -> float:
    """m' by the engine, whose covariance must not move."""
    error = AffineError([eps, 0.0], np.zeros((2, 2)))
    after = jko_step(shifted(mean, lam), gamma, Quadratic(lam * np.eye(2), np.zeros(2)), error=error)
    assert np.allclose(after.covariance, np.eye(2) / lam)
    return float(after.mean[0])


def distance_and_kl(mean: float, lam: float) -> tuple[float, float]:
    potential = Quadratic(lam * np.eye(2), np.zeros(2))
    state = shifted(mean, lam)
    return w2(state, potential.equilibrium), kl(state, potential)


# ── ratios of what is measured to what is claimed ──


@pytest.mark.parametrize(("gamma", "lam"), CASES)
def test_ratios_of_an_exact_step(gamma: float, lam: float) -> None:
    g = gamma * lam
    distance, nats = distance_and_kl(stepped(START, gamma, lam), lam)
    assert ratio(distance**2, bounds.forward_w2_squared(START, [gamma], [0.0], lam)) == approx(
        (1 + g / 2) / (1 + g) ** 2
    )
    assert ratio(distance**2, bounds.contraction_squared(gamma, lam) * START**2) == approx(1 / (1 + g))
    assert ratio(distance, bounds.sharp_w2(START, [gamma], [0.0], lam)) == approx(1.0)
    assert ratio(nats, bounds.last_step_kl(START, gamma, lam, 0.0)) == approx(g / (1 + g) ** 2)
    assert ratio(nats, bounds.sharp_last_step_kl(START, gamma, lam, 0.0)) == approx(
        g * (2 + g) / (1 + g) ** 2
    )


@pytest.mark.parametrize(("gamma", "lam"), CASES)
def test_ratios_of_a_step_with_an_error(gamma: float, lam: float) -> None:
    """From q itself, so that nothing but the error is seen; and from further out along it."""
    g = gamma * lam
    distance, nats = distance_and_kl(stepped(0.0, gamma, lam, EPS), lam)
    assert ratio(distance**2, bounds.forward_w2_squared(0.0, [gamma], [EPS], lam)) == approx(
        g * (1 + g / 2) / (2 * (1 + g) ** 2)
    )
    assert ratio(nats, bounds.last_step_kl(0.0, gamma, lam, EPS)) == approx(g**2 / (2 * (1 + g) ** 2))
    distance, nats = distance_and_kl(stepped(START, gamma, lam, EPS), lam)
    assert ratio(distance, bounds.sharp_w2(START, [gamma], [EPS], lam)) == approx(1.0)
    assert ratio(nats, bounds.sharp_last_step_kl(START, gamma, lam, EPS)) == approx(
        g * (2 + g) / (1 + g) ** 2
    )


@pytest.mark.parametrize(("gamma", "lam"), CASES)
def test_ratio_of_the_evi(gamma: float, lam: float) -> None:
    """At pi = q: the left side is (1 + g/2) m'² + g m'², m' = (m + gamma eps)/(1 + g)."""
    g = gamma * lam
    distance, nats = distance_and_kl(stepped(START, gamma, lam, EPS), lam)
    left = (1 + g / 2) * distance**2 + 2 * gamma * nats
    expected = (1 + 1.5 * g) * ((START + gamma * EPS) / (1 + g)) ** 2
    expected /= START**2 + 2 * gamma / lam * EPS**2
    assert ratio(left, bounds.evi_gap(START, gamma, lam, EPS)) == approx(expected)


def test_unequal_steps_are_unrolled_in_their_order() -> None:
    """Two steps by hand: a_n and c_n of the last step act on everything before it."""
    gammas, errors, lam = [0.5, 2.0], [0.3, 0.1], 0.8
    a = [1 / (1 + gamma * lam / 2) for gamma in gammas]
    squared = a[0] * a[1] * 9 + a[0] * a[1] * (2 * 0.5 / lam) * 0.09 + a[1] * (2 * 2.0 / lam) * 0.01
    assert bounds.forward_w2_squared(3.0, gammas, errors, lam) == approx(squared)
    c = [1 / (1 + gamma * lam) for gamma in gammas]
    sharp = c[0] * c[1] * 3 + c[0] * c[1] * 0.5 * 0.3 + c[1] * 2.0 * 0.1
    assert bounds.sharp_w2(3.0, gammas, errors, lam) == approx(sharp)
    before = a[0] * 9 + a[0] * (2 * 0.5 / lam) * 0.09
    assert bounds.forward_kl(3.0, gammas, errors, lam) == approx(before / (2 * 2.0) + 0.01 / lam)


@pytest.mark.parametrize(("gamma", "lam"), CASES)
def test_ratios_at_the_floor(gamma: float, lam: float) -> None:
    """A constant error ends at |m| = eps/lambda: 1/sqrt(5) of (37), gamma lambda/9 of Corollary 5.2."""
    mean = START
    for _ in range(bounds.blocks_needed(START, gamma, lam, EPS) + int(60 / (gamma * lam))):
        mean = stepped(mean, gamma, lam, EPS)
    distance, nats = distance_and_kl(mean, lam)
    assert ratio(distance, math.sqrt(5) * EPS / lam) == approx(1 / math.sqrt(5))
    assert ratio(nats, bounds.generation_kl(gamma, lam, EPS)) == approx(gamma * lam / 9)
    assert bounds.generation_tv(gamma, lam, 0.01) == approx(1.5 / math.sqrt(gamma) * 0.01 / lam)


def test_blocks_that_are_needed() -> None:
    """8/(0.5 · 0.8) = 20; log(0.8 · 5/0.04) = log 100 = 4.60517..: 93 blocks, one more for the KL."""
    assert bounds.blocks_needed(5.0, 0.5, 0.8, 0.04) == math.ceil(20 * math.log(100)) + 1 == 94
    assert bounds.blocks_needed(0.01, 0.5, 0.8, 0.04) == 1
    assert bounds.blocks_needed(0.0, 0.5, 0.8, 0.04) == 1


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_ratio_of_the_algebraic_rate(steps: int) -> None:
    """lambda m_n²/2 against m_0²/(2 gamma n): g n/(1 + g)^{2n}, at its worst g = 1/(2n - 1)."""
    lam, gamma = 0.4, 1 / (0.4 * (2 * steps - 1))
    mean = START
    for _ in range(steps):
        mean = stepped(mean, gamma, lam)
    g = gamma * lam
    assert ratio(distance_and_kl(mean, lam)[1], bounds.algebraic_rate(START, gamma, steps)) == approx(
        g * steps / (1 + g) ** (2 * steps)
    )


@pytest.mark.parametrize("time", [1e-3, 0.3, 4.0])
def test_ratio_of_the_smoothing_bound(time: float) -> None:
    """An atom: the only coupling gives Lemma C.1 with equality."""
    atom = GaussianState([1.0, -2.0], np.zeros((2, 2)))
    cloud = GaussianState(math.exp(-time) * atom.mean, -math.expm1(-2 * time) * np.eye(2))
    assert ratio(w2(atom, cloud) ** 2, bounds.smoothing_w2_squared(5.0, 2, time)) == approx(1.0)
    assert bounds.smoothing_time(5.0, 2, 0.3) == approx(0.09 / 9)


def test_ratio_of_the_inversion_bound() -> None:
    """Dilations: every inverse stretches by L_n and every error points the same way."""
    lipschitz, errors = [1.5, 0.7, 2.0], [0.01, 0.02, 0.03]
    offset = 0.0
    for stretch, error in zip(reversed(lipschitz), reversed(errors), strict=True):
        offset = stretch * (offset + error)
    assert ratio(offset, bounds.inversion_w2_by_block(errors, lipschitz)) == approx(1.0)
    r = math.exp(0.5 * 0.8)
    assert bounds.inversion_w2(0.1, 0.5, 0.8, 3) == approx(0.1 * (r + r**2 + r**3))
    assert bounds.inversion_w2_closed(0.1, 0.5, 0.8, 3) == approx(0.1 / 0.4 * math.exp(0.4 * 4))
    grown = (5.0 * 0.5 / 0.1) ** (8 * 0.8 / 0.5)
    expected = math.exp(3 * 0.4) / 0.4 * grown * 1e-6
    assert bounds.mixed_w2(5.0, 0.5, 0.5, 0.1, 0.8, 1e-6) == approx(expected)
    assert bounds.mixed_w2(0.1, 0.5, 0.5, 0.1, 0.8, 1e-6) == approx(math.exp(1.2) / 0.4 * 1e-6)


@pytest.mark.parametrize("lam", [0.3, 1.0, 2.5])
def test_ratios_of_fisher_talagrand_and_the_diffusion(lam: float) -> None:
    """All four are equalities for mean shifts: |∇V + ∇log p| = lambda |m|, m_t = e^{-lambda t} m."""
    distance, nats = distance_and_kl(START, lam)
    assert ratio(nats, bounds.fisher_kl(lam * START, lam)) == approx(1.0)
    assert ratio(distance, bounds.talagrand_w2(nats, lam)) == approx(1.0)
    assert bounds.talagrand_w2(nats, lam, lipschitz=3.0) == approx(3 * distance)
    later, later_nats = distance_and_kl(math.exp(-lam * 0.7) * START, lam)
    assert ratio(later, bounds.diffusion_w2(distance, 0.7, lam)) == approx(1.0)
    assert ratio(later_nats, bounds.diffusion_kl(nats, 0.7, lam)) == approx(1.0)


def test_ratio_of_monotonicity() -> None:
    """A quadratic potential energy: G(pi) - G(rho) = <move, gradient> + (lambda/2) |move|², an equality."""
    lam, rho, move = 0.7, 1.3, -0.4
    rise = lam / 2 * ((rho + move) ** 2 - rho**2)
    assert ratio(bounds.monotonicity_gap(move * lam * rho, move, lam), rise) == approx(1.0)


# ── false versions, and rates by their exponents ──


@pytest.mark.parametrize(("gamma", "lam"), CASES)
def test_false_versions_are_rejected_by_mean_shifts(gamma: float, lam: float) -> None:
    """Each bound made a little stronger is broken by the case above: an exponent or a sign is changed."""
    g = gamma * lam
    distance, nats = distance_and_kl(stepped(START, gamma, lam, EPS), lam)
    exact_distance, _ = distance_and_kl(stepped(START, gamma, lam), lam)
    far, far_nats = distance_and_kl(START, lam)
    assert distance > (START - gamma * EPS) / (1 + g), "the sign of the error"
    assert distance > (START + gamma * EPS) / (1 + g) ** 1.01, "the exponent of the sharper form"
    assert exact_distance**2 > START**2 / (1 + g / 2) ** 4, "the exponent of Theorem 4.3"
    assert exact_distance**2 > START**2 / (1 + g) ** 3, "the exponent of the contraction"
    assert nats * 2 * gamma * (2 + g) * (1 + g) ** 2 > g * (2 + g) * (START - gamma * EPS) ** 2
    assert far_nats > (lam * START) ** 2 / (2 * lam) * 0.99, "the constant of log-Sobolev"
    assert far > math.sqrt(2 * far_nats / lam) * 0.99, "the constant of Talagrand"


def test_distance_falls_by_the_same_factor_at_every_step() -> None:
    """log W2 against n is a line of slope -log(1 + gamma lambda)."""
    gamma, lam, means = 0.3, 0.8, [START]
    for _ in range(20):
        means.append(stepped(means[-1], gamma, lam))
    slope = np.polyfit(np.arange(21), np.log(means), 1)[0]
    assert slope == pytest.approx(-math.log(1 + gamma * lam), rel=1e-9)


def test_floor_is_linear_in_eps_in_w2_and_quadratic_in_kl() -> None:
    gamma, lam, errors = 0.5, 0.7, np.array([0.01, 0.03, 0.1, 0.3])
    floors = []
    for eps in errors:
        mean = START
        for _ in range(150):
            mean = stepped(mean, gamma, lam, float(eps))
        floors.append(distance_and_kl(mean, lam))
    distances, nats = np.array(floors).T
    assert np.polyfit(np.log(errors), np.log(distances), 1)[0] == pytest.approx(1.0, abs=1e-6)
    assert np.polyfit(np.log(errors), np.log(nats), 1)[0] == pytest.approx(2.0, abs=1e-6)


def test_blocks_grow_with_the_logarithm_of_the_error() -> None:
    """N against log(1/eps) is a line of slope 8/(gamma lambda), as (36) has it, to the rounding up."""
    logs = np.linspace(2, 30, 15)
    blocks = [bounds.blocks_needed(1.0, 0.5, 0.8, math.exp(-value)) for value in logs]
    assert np.polyfit(logs, blocks, 1)[0] == pytest.approx(8 / 0.4, rel=2e-3)


# ── refusals ──


def test_what_is_not_proved_is_refused() -> None:
    with pytest.raises(InputError, match="Assumption 5"):
        bounds.generation_kl(3.0, 1.0, 0.1)
    with pytest.raises(InputError, match="Assumption 5"):
        bounds.blocks_needed(1.0, 3.0, 1.0, 0.1)
    with pytest.raises(InputError, match="Assumption 5"):
        bounds.mixed_w2(1.0, 3.0, 1.0, 0.1, 1.0, 0.1)
    with pytest.raises(InputError, match="error: expected a number above 0"):
        bounds.blocks_needed(1.0, 0.5, 1.0, 0.0)
    with pytest.raises(InputError, match="one for each of 2"):
        bounds.sharp_w2(1.0, [0.1, 0.2], [0.1], 1.0)
    with pytest.raises(InputError, match="lam"):
        bounds.forward_w2_squared(1.0, [0.1], [0.1], 0.0)
    with pytest.raises(InputError, match="lipschitz"):
        bounds.inversion_w2_closed(0.1, 0.5, 0.0, 3)


def ratio(measured: float, bound: float) -> float:
    return measured / bound


def approx(value: float) -> object:
    return pytest.approx(value, rel=CLOSE)


# ── free steps ──


@pytest.mark.parametrize("lam", [0.4, 1.0])
def test_free_steps_are_the_limit_of_large_ones_and_are_true(lam: float) -> None:
    """A law with ∇V + ∇log p = lambda m everywhere: eps = lambda |m|, W2 = |m|, KL = lambda |m|²/2."""
    mean = 0.7
    (distance, nats), eps = distance_and_kl(mean, lam), lam * mean
    for bound, measured, attained in (
        (lambda gamma: bounds.forward_w2_squared(3.0, [0.5, gamma], [9.0, eps], lam), distance**2, 1 / 4),
        (lambda gamma: bounds.sharp_w2(3.0, [0.5, gamma], [9.0, eps], lam), distance, 1.0),
        (lambda gamma: bounds.last_step_kl(3.0, gamma, lam, eps), nats, 1 / 2),
        (lambda gamma: bounds.sharp_last_step_kl(3.0, gamma, lam, eps), nats, 1.0),
    ):
        assert bound(math.inf) == approx(bound(1e12))
        assert ratio(measured, bound(math.inf)) == approx(attained)
    assert bounds.sharp_w2(3.0, [math.inf], [0.1], 0.0) == math.inf
    assert bounds.sharp_last_step_kl(3.0, math.inf, 0.0, 0.1) == math.inf

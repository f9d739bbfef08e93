"""The Gaussian recursion against its optimality, its limits, and the formulas of the commuting case."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from jkoflow.errors import InputError
from jkoflow.exact import (
    AffineError,
    GaussianState,
    Quadratic,
    jko_step,
    kl,
    trajectory,
    transport_map,
    w2,
)

Array = NDArray[np.float64]

DIMS = [1, 2, 3, 5, 10]
GAMMAS = [0.01, 0.1, 0.5, 1.5, 20.0]


def random_covariance(rng: np.random.Generator, dim: int) -> Array:
    factor = rng.normal(size=(dim, dim))
    return factor @ factor.T / dim + 0.2 * np.eye(dim)


def random_problem(seed: int, dim: int) -> tuple[GaussianState, Quadratic]:
    """A Gaussian and a potential whose matrices do not commute (for d > 1)."""
    rng = np.random.default_rng(seed)
    state = GaussianState(rng.normal(size=dim), random_covariance(rng, dim))
    return state, Quadratic(random_covariance(rng, dim), rng.normal(size=dim))


def objective(state: GaussianState, start: GaussianState, gamma: float, potential: Quadratic) -> float:
    """Eq. (17), with W2² by the trace formula so that `w2` is not its own judge."""
    root = np.linalg.cholesky(start.covariance)
    cross = np.sqrt(np.linalg.eigvalsh(root.T @ state.covariance @ root)).sum()
    move = float(np.sum((state.mean - start.mean) ** 2))
    squared = move + np.trace(state.covariance) + np.trace(start.covariance) - 2 * cross
    return float(kl(state, potential) + squared / (2 * gamma))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("gamma", [0.1, 1.5])
def test_step_is_the_minimiser(dim: int, gamma: float) -> None:
    start, potential = random_problem(dim, dim)
    step = jko_step(start, gamma, potential)
    lowest = objective(step, start, gamma, potential)
    rng = np.random.default_rng(0)
    for size in (1e-3, 1e-2, 1e-1):
        for _ in range(5):
            twist = np.eye(dim) + size * rng.normal(size=(dim, dim))
            only_covariance = GaussianState(step.mean, twist @ step.covariance @ twist.T)
            only_mean = GaussianState(step.mean + size * rng.normal(size=dim), step.covariance)
            assert objective(only_covariance, start, gamma, potential) > lowest
            assert objective(only_mean, start, gamma, potential) > lowest


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_wasserstein_gradient_vanishes(dim: int, gamma: float) -> None:
    """xi = ∇V + ∇log p' - (T^{-1} - id)/gamma = 0, eq. (27), slope and offset."""
    start, potential = random_problem(100 + dim, dim)
    step = jko_step(start, gamma, potential)
    inverse = np.linalg.inv(transport_map(start, step).matrix)
    slope = potential.matrix - np.linalg.inv(step.covariance) - (inverse - np.eye(dim)) / gamma
    offset = potential.matrix @ (step.mean - potential.centre) - (start.mean - step.mean) / gamma
    assert np.abs(slope).max() < 1e-10 * (1 + 1 / gamma)
    assert np.abs(offset).max() < 1e-10 * (1 + 1 / gamma)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_commuting_formula(dim: int, gamma: float) -> None:
    rng = np.random.default_rng(dim)
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    s, a = rng.uniform(0.2, 3, dim), rng.uniform(0.1, 2, dim)
    m, b = rng.normal(size=(2, dim))
    matrix = basis * a @ basis.T
    step = jko_step(GaussianState(m, basis * s**2 @ basis.T), gamma, Quadratic(matrix, b))
    s_next = (s + np.sqrt(s**2 + 4 * gamma * (1 + gamma * a))) / (2 * (1 + gamma * a))
    m_next = np.linalg.solve(np.eye(dim) + gamma * matrix, m + gamma * matrix @ b)
    np.testing.assert_allclose(step.covariance, basis * s_next**2 @ basis.T, atol=1e-12)
    np.testing.assert_allclose(step.mean, m_next, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.5])
def test_standard_normal_case(gamma: float) -> None:
    """Theory, "Closed forms": m' = m/(1+gamma) and s' with V = |x|²/2."""
    step = jko_step(GaussianState([3.0, 3.0], np.diag([4.0, 0.25])), gamma, Quadratic.standard(2))
    s = np.array([2.0, 0.5])
    expected = (s + np.sqrt(s**2 + 4 * gamma * (1 + gamma))) / (2 * (1 + gamma))
    np.testing.assert_allclose(step.mean, 3 / (1 + gamma))
    np.testing.assert_allclose(np.sqrt(np.diag(step.covariance)), expected)


def test_appendix_d_step() -> None:
    step = jko_step(GaussianState([3.0, 3.0], np.eye(2)), 0.5, Quadratic.standard(2))
    np.testing.assert_allclose(step.mean, [2.0, 2.0])
    np.testing.assert_allclose(step.covariance, np.eye(2), atol=1e-15)


@pytest.mark.parametrize("dim", DIMS)
def test_small_steps_follow_the_fokker_planck_equation(dim: int) -> None:
    """Eq. (8): dm/dt = -A(m - b) and dΣ/dt = 2I - AΣ - ΣA, with an error of first order in gamma."""
    start, potential = random_problem(dim, dim)
    a, sigma = potential.matrix, start.covariance
    drift = 2 * np.eye(dim) - a @ sigma - sigma @ a
    errors = []
    for gamma in (1e-3, 1e-4):
        step = jko_step(start, gamma, potential)
        errors.append(
            np.abs((step.covariance - sigma) / gamma - drift).max()
            + np.abs((step.mean - start.mean) / gamma + a @ (start.mean - potential.centre)).max()
        )
    assert 0.8 < math.log10(errors[0] / errors[1]) < 1.2


@pytest.mark.parametrize("dim", DIMS)
def test_large_and_free_steps_end_in_q(dim: int) -> None:
    start, potential = random_problem(dim, dim)
    assert w2(jko_step(start, 1e9, potential), potential.equilibrium) < 1e-6
    assert w2(jko_step(start, math.inf, potential), potential.equilibrium) < 1e-12


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_q_is_a_fixed_point(dim: int, gamma: float) -> None:
    potential = random_problem(dim, dim)[1]
    assert w2(jko_step(potential.equilibrium, gamma, potential), potential.equilibrium) < 1e-12


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_exact_steps_contract(dim: int, gamma: float) -> None:
    """W2(p_{n+1}, q) <= W2(p_n, q)/(1 + gamma lambda), and the KL never rises."""
    start, potential = random_problem(dim, dim)
    states = trajectory(start, [gamma] * 4, potential)
    assert len(states) == 5
    assert states[0] is start
    for before, after in itertools.pairwise(states):
        far, near = w2(before, potential.equilibrium), w2(after, potential.equilibrium)
        assert near <= far / (1 + gamma * potential.lam) + 1e-12
        assert kl(after, potential) <= kl(before, potential) + 1e-12


@pytest.mark.parametrize("gamma", GAMMAS)
def test_mean_shift_contracts_at_exactly_the_rate(gamma: float) -> None:
    potential = Quadratic(0.7 * np.eye(3), [1.0, 0.0, -1.0])
    start = GaussianState([4.0, 2.0, 0.0], np.eye(3) / 0.7)
    ratio = w2(jko_step(start, gamma, potential), potential.equilibrium) / w2(start, potential.equilibrium)
    assert ratio == pytest.approx(1 / (1 + 0.7 * gamma), rel=1e-12)


def test_trajectory_uses_its_step_sizes_in_order() -> None:
    start, potential = random_problem(3, 3)
    by_hand = jko_step(jko_step(start, 0.1, potential), 2.0, potential)
    assert w2(trajectory(start, (0.1, 2.0), potential)[-1], by_hand) < 1e-14


@pytest.mark.parametrize("dim", DIMS)
def test_transport_map_pushes_and_moves_w2(dim: int) -> None:
    source = random_problem(dim, dim)[0]
    target = random_problem(50 + dim, dim)[0]
    transport = transport_map(source, target)
    pushed = transport.matrix @ source.covariance @ transport.matrix.T
    np.testing.assert_allclose(pushed, target.covariance, atol=1e-10)
    np.testing.assert_allclose(transport(source.mean[None])[0], target.mean)
    assert np.linalg.eigvalsh(transport.matrix)[0] > 0
    np.testing.assert_allclose(transport.matrix, transport.matrix.T)
    move = transport.matrix - np.eye(dim)
    cost = np.sum((source.mean - target.mean) ** 2) + np.trace(move @ source.covariance @ move.T)
    assert w2(source, target) == pytest.approx(math.sqrt(cost), rel=1e-8)
    change = (np.linalg.slogdet(target.covariance)[1] - np.linalg.slogdet(source.covariance)[1]) / 2
    assert transport.log_det == pytest.approx(change, rel=1e-8, abs=1e-10)


def test_affine_map_on_rows() -> None:
    source, target = random_problem(1, 2)[0], random_problem(2, 2)[0]
    transport = transport_map(source, target)
    x = np.array([[1.0, 2.0], [-1.0, 0.5]])
    by_row = [target.mean + transport.matrix @ (row - source.mean) for row in x]
    np.testing.assert_allclose(transport(x), by_row)


@pytest.mark.parametrize("dim", DIMS)
def test_w2_by_the_trace_formula(dim: int) -> None:
    first, second = random_problem(dim, dim)[0], random_problem(20 + dim, dim)[0]
    values, basis = np.linalg.eigh(second.covariance)
    root = basis * np.sqrt(values) @ basis.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ first.covariance @ root)).sum()
    squared = (
        np.sum((first.mean - second.mean) ** 2) + np.trace(first.covariance + second.covariance) - 2 * cross
    )
    assert w2(first, second) == pytest.approx(math.sqrt(squared), rel=1e-10)
    assert w2(first, second) == pytest.approx(w2(second, first), rel=1e-12)
    assert w2(first, first) < 1e-13


def test_w2_of_close_and_of_degenerate_gaussians() -> None:
    assert w2(GaussianState([0.0], [[1.0]]), GaussianState([0.0], [[(1 + 1e-9) ** 2]])) == pytest.approx(
        1e-9, rel=1e-5
    )
    point = GaussianState([1.0, 0.0], np.zeros((2, 2)))
    assert w2(point, GaussianState([0.0, 0.0], np.diag([4.0, 9.0]))) == pytest.approx(math.sqrt(1 + 13))


def test_kl_in_one_dimension_and_against_an_integral() -> None:
    state, potential = GaussianState([1.0], [[4.0]]), Quadratic([[0.5]], [-1.0])
    assert kl(state, potential) == pytest.approx((0.5 * 4 + 0.5 * 4 - 1 - math.log(0.5 * 4)) / 2)
    x = np.linspace(-30, 30, 200_001)
    p = np.exp(-((x - 1) ** 2) / 8) / math.sqrt(8 * math.pi)
    log_ratio = -((x - 1) ** 2) / 8 - math.log(2) + (x + 1) ** 2 / 4 + 0.5 * math.log(2)
    assert kl(state, potential) == pytest.approx(float(np.sum(p * log_ratio) * (x[1] - x[0])), abs=1e-9)


def test_kl_in_several_dimensions_and_at_its_ends() -> None:
    state, potential = random_problem(4, 4)
    shift, product = state.mean - potential.centre, potential.matrix @ state.covariance
    by_hand = np.trace(product) + shift @ potential.matrix @ shift - 4 - np.linalg.slogdet(product)[1]
    assert kl(state, potential) == pytest.approx(by_hand / 2)
    assert kl(potential.equilibrium, potential) == pytest.approx(0, abs=1e-13)
    assert kl(GaussianState([0.0, 0.0], np.zeros((2, 2))), Quadratic.standard(2)) == math.inf


def test_a_point_mass_gets_a_density() -> None:
    """Σ = 0 gives X = gamma I."""
    step = jko_step(GaussianState([1.0, 1.0], np.zeros((2, 2))), 0.5, Quadratic.standard(2))
    np.testing.assert_allclose(step.covariance, np.eye(2) * 0.5 / 1.5)


def test_flat_directions_have_no_equilibrium_but_a_step() -> None:
    potential = Quadratic(np.diag([1.0, 0.0]), [0.0, 0.0])
    assert potential.lam == 0
    step = jko_step(GaussianState([1.0, 1.0], np.eye(2)), 1.0, potential)
    np.testing.assert_allclose(step.mean, [0.5, 1.0])
    assert step.covariance[1, 1] == pytest.approx((1 + 2 + math.sqrt(5)) / 2)
    for use in (lambda: potential.equilibrium, lambda: kl(step, potential)):
        with pytest.raises(InputError, match="positive definite"):
            use()


def test_moments_of_samples() -> None:
    x = np.random.default_rng(0).normal(size=(50, 3)) @ np.diag([1.0, 2.0, 3.0]) + 1.0
    state = GaussianState.from_samples(x)
    np.testing.assert_allclose(state.mean, x.mean(0))
    np.testing.assert_allclose(state.covariance, np.cov(x.T, bias=True))


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "gamma zero": (
        lambda: jko_step(GaussianState([0.0], [[1.0]]), 0.0, Quadratic.standard(1)),
        "gamma: expected",
    ),
    "gamma nan": (
        lambda: jko_step(GaussianState([0.0], [[1.0]]), math.nan, Quadratic.standard(1)),
        "gamma: expected",
    ),
    "dimensions": (
        lambda: jko_step(GaussianState([0.0], [[1.0]]), 1.0, Quadratic.standard(2)),
        "got 1 and 2",
    ),
    "mean shape": (lambda: GaussianState([[0.0]], [[1.0]]), "mean: expected"),
    "covariance shape": (lambda: GaussianState([0.0, 0.0], [[1.0]]), "covariance: expected"),
    "asymmetric": (lambda: GaussianState([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
    "indefinite": (lambda: GaussianState([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]), "semidefinite"),
    "nan": (lambda: Quadratic([[math.nan]], [0.0]), "matrix: expected a finite"),
    "samples": (lambda: GaussianState.from_samples([1.0, 2.0]), "shape \\(n, d\\)"),
    "degenerate source": (
        lambda: transport_map(GaussianState([0.0], [[0.0]]), GaussianState([0.0], [[1.0]])),
        "degenerate",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str) -> None:
    use, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        use()


def test_states_cannot_be_changed() -> None:
    state = GaussianState([0.0], [[1.0]])
    with pytest.raises(ValueError, match="read-only"):
        state.mean[0] = 1.0


# ── injected errors ──


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("gamma", [0.1, 0.8])
def test_injected_error_is_the_wasserstein_gradient(dim: int, gamma: float) -> None:
    """Eq. (29): ∇V + ∇log p' - (T^{-1} - id)/gamma = a + S (x - m'), as matrices and at a point."""
    start, potential = random_problem(dim + 7, dim)
    rng = np.random.default_rng(dim)
    twist = rng.normal(size=(dim, dim))
    error = AffineError(rng.normal(size=dim), 0.2 * (twist + twist.T) / np.linalg.norm(twist + twist.T, 2))
    after = jko_step(start, gamma, potential, error=error)
    back = np.linalg.inv(transport_map(start, after).matrix)
    slope = potential.matrix - np.linalg.inv(after.covariance) - (back - np.eye(dim)) / gamma
    np.testing.assert_allclose(slope, error.matrix, atol=1e-8)
    at_mean = potential.matrix @ (after.mean - potential.centre) - (start.mean - after.mean) / gamma
    np.testing.assert_allclose(at_mean, error.shift, atol=1e-10)


def test_norm_of_an_affine_error_is_that_of_draws() -> None:
    rng = np.random.default_rng(0)
    state, _ = random_problem(2, 3)
    error = AffineError([0.3, -0.1, 0.2], np.diag([0.5, -0.2, 0.1]))
    x = rng.multivariate_normal(state.mean, state.covariance, size=200_000)
    xi = error.shift + (x - state.mean) @ error.matrix
    assert error.norm(state) == pytest.approx(np.sqrt((xi**2).sum(1).mean()), rel=0.01)


def test_wrong_errors_are_refused() -> None:
    start, potential = random_problem(1, 2)
    with pytest.raises(InputError, match="symmetric"):
        AffineError([0.0, 0.0], [[0.0, 1.0], [0.0, 0.0]])
    with pytest.raises(InputError, match="positive definite"):
        jko_step(start, 1.0, potential, error=AffineError([0.0, 0.0], 50 * np.eye(2)))
    with pytest.raises(InputError, match="free step"):
        jko_step(start, math.inf, potential, error=AffineError([0.0, 0.0], np.zeros((2, 2))))
    with pytest.raises(InputError, match="one dimension"):
        jko_step(start, 1.0, potential, error=AffineError([0.0], [[0.0]]))

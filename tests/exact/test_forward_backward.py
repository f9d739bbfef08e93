"""The forward-backward step against its theorem, Gaussian variational inference against its optimality."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from jkoflow.errors import InputError
from jkoflow.exact import GaussianState, Quadratic, jko_step, kl, w2
from jkoflow.exact.forward_backward import (
    NormalRule,
    forward_backward_step,
    gaussian_variational_inference,
    gaussian_variational_step,
)

Array = NDArray[np.float64]

FRACTIONS = [0.01, 0.3, 0.9, 1.0]
"""gamma L."""


def largest(potential: Quadratic) -> float:
    return float(np.linalg.eigvalsh(potential.matrix)[-1])


def wishart(rng: np.random.Generator, dim: int, least: float) -> Array:
    factor = rng.normal(size=(dim, dim))
    return factor @ factor.T / dim + least * np.eye(dim)


@dataclass(frozen=True)
class Case:
    """A Gaussian, a potential that does not commute with it (for d > 1), and a step size up to 1/L."""

    start: GaussianState
    potential: Quadratic
    gamma: float

    @classmethod
    def make(cls, seed: int, dim: int, fraction: float, *, spread: float = 1.0, least: float = 0.2) -> Case:
        rng = np.random.default_rng(seed)
        potential = Quadratic(wishart(rng, dim, least), rng.normal(size=dim))
        start = GaussianState(spread * rng.normal(size=dim), spread**2 * wishart(rng, dim, 0.0))
        return cls(start, potential, fraction / largest(potential))

    def run(self, steps: int) -> list[GaussianState]:
        states = [self.start]
        for _ in range(steps):
            states.append(forward_backward_step(states[-1], self.gamma, self.potential))
        return states

    def squared_distances(self, steps: int) -> Array:
        """W2²(mu_n, q) for n = 0, …, steps."""
        return np.array([w2(state, self.potential.equilibrium) ** 2 for state in self.run(steps)])


cases = st.builds(
    Case.make,
    seed=st.integers(0, 2**32 - 1),
    dim=st.integers(1, 6),
    fraction=st.one_of(st.just(1.0), st.floats(0.01, 1.0)),
    spread=st.floats(0.05, 20.0),
    least=st.sampled_from([1e-4, 1e-2, 0.2, 1.0]),
)


@pytest.mark.parametrize("gamma", [0.01, 0.3, 1.0])
def test_standard_normal_case(gamma: float) -> None:
    """Theory, "Closed forms": m' = (1-gamma) m and s' with V = |x|²/2, in any eigenbasis of Σ."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    s = np.array([2.0, 0.5, 1.0])
    start = GaussianState([3.0, -1.0, 0.5], basis * s**2 @ basis.T)
    step = forward_backward_step(start, gamma, Quadratic.standard(3))
    half = (1 - gamma) * s
    expected = (half + np.sqrt(half**2 + 4 * gamma)) / 2
    np.testing.assert_allclose(step.mean, (1 - gamma) * start.mean, atol=1e-15)
    np.testing.assert_allclose(step.covariance, basis * expected**2 @ basis.T, atol=1e-14)


@pytest.mark.parametrize("dim", [1, 2, 5, 10])
@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.9])
def test_formula_of_the_theory(dim: int, fraction: float) -> None:
    """Σ' as the theory writes it, by the matrix square root of SciPy."""
    case = Case.make(dim, dim, fraction)
    identity, gamma = np.eye(dim), case.gamma
    forward = identity - gamma * case.potential.matrix
    s = forward @ case.start.covariance @ forward
    expected = (s + 2 * gamma * identity + np.real(sqrtm(s @ (s + 4 * gamma * identity)))) / 2
    step = forward_backward_step(case.start, gamma, case.potential)
    np.testing.assert_allclose(step.covariance, expected, atol=1e-10)
    slope = case.potential.matrix @ (case.start.mean - case.potential.centre)
    np.testing.assert_allclose(step.mean, case.start.mean - gamma * slope, atol=1e-14)


@pytest.mark.parametrize("dim", [1, 2, 5, 10])
@pytest.mark.parametrize("gamma", [0.01, 0.5, 20.0])
def test_backward_half_is_the_minimiser(dim: int, gamma: float) -> None:
    """V = 0 leaves the entropy alone: -log det Σ'/2 + W2²/(2 gamma) rises in every direction."""
    flat = Quadratic(np.zeros((dim, dim)), np.zeros(dim))
    start = Case.make(dim, dim, 1.0).start

    def objective(state: GaussianState) -> float:
        return float(w2(state, start) ** 2 / (2 * gamma) - np.linalg.slogdet(state.covariance)[1] / 2)

    step = forward_backward_step(start, gamma, flat)
    assert w2(step, jko_step(start, gamma, flat)) < 1e-12
    lowest, rng = objective(step), np.random.default_rng(0)
    for size in (1e-3, 1e-2, 1e-1):
        for _ in range(10):
            twist = np.eye(dim) + size * rng.normal(size=(dim, dim))
            assert objective(GaussianState(step.mean, twist @ step.covariance @ twist.T)) > lowest
            assert objective(GaussianState(step.mean + size * rng.normal(size=dim), step.covariance)) > lowest


@pytest.mark.parametrize("dim", [1, 2, 5, 10])
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_q_is_a_fixed_point(dim: int, fraction: float) -> None:
    """To all digits at gamma = 1/L too, where S is singular and a square root of it would keep eight."""
    case = Case.make(dim, dim, fraction)
    q = case.potential.equilibrium
    assert w2(forward_backward_step(q, case.gamma, case.potential), q) < 1e-13


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_small_steps_follow_the_fokker_planck_equation(dim: int) -> None:
    """Eq. (8): dm/dt = -A(m - b) and dΣ/dt = 2I - AΣ - ΣA, with an error of first order in gamma."""
    case = Case.make(dim, dim, 1.0, least=0.5)
    a, start = case.potential.matrix, GaussianState(case.start.mean, case.start.covariance + np.eye(dim))
    drift = 2 * np.eye(dim) - a @ start.covariance - start.covariance @ a
    errors = [
        np.abs((forward_backward_step(start, g, case.potential).covariance - start.covariance) / g - drift)
        for g in (1e-3, 1e-4)
    ]
    assert 0.8 < math.log10(errors[0].max() / errors[1].max()) < 1.2


@settings(max_examples=300)
@given(cases)
def test_theorem(case: Case) -> None:
    """W2²(mu_n, q) <= (1 - gamma lambda)^n W2²(mu_0, q), and KL(mu_n‖q) <= W2²(mu_0, q)/(2 gamma n)."""
    states, squared = case.run(6), case.squared_distances(6)
    contraction = 1 - case.gamma * case.potential.lam
    for n in range(1, 7):
        assert squared[n] <= contraction**n * squared[0] * (1 + 1e-9) + 1e-20
        # the rate of lambda = 0, which is the only one with content where lambda is 1e-4
        assert kl(states[n], case.potential) <= squared[0] / (2 * case.gamma * n) + 1e-13


@settings(max_examples=300)
@given(cases)
def test_every_step_keeps_the_inequality_behind_the_theorem(case: Case) -> None:
    """W2²(mu_{n+1}, q) + 2 gamma KL(mu_{n+1}‖q) <= (1 - gamma lambda) W2²(mu_n, q)."""
    states, squared = case.run(3), case.squared_distances(3)
    for n in range(3):
        left = squared[n + 1] + 2 * case.gamma * kl(states[n + 1], case.potential)
        assert left <= (1 - case.gamma * case.potential.lam) * squared[n] * (1 + 1e-9) + 1e-13


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_mean_shift_contracts_by_exactly_the_square(dim: int, fraction: float) -> None:
    """Along lambda's eigenvector W2² falls by (1 - gamma lambda)², so that no cube can be a theorem."""
    case = Case.make(dim, dim, fraction)
    shift = np.linalg.eigh(case.potential.matrix)[1][:, 0]
    q = case.potential.equilibrium
    start = GaussianState(q.mean + 3 * shift, q.covariance)
    squared = Case(start, case.potential, case.gamma).squared_distances(5)
    contraction = 1 - case.gamma * case.potential.lam
    np.testing.assert_allclose(squared[1:] / squared[:-1], contraction**2, rtol=1e-6)
    assert squared[5] <= contraction**5 * squared[0]
    assert squared[5] > contraction ** (3 * 5) * squared[0] * 1.001


def test_false_rate_is_rejected() -> None:
    """Random Gaussians, not built for it, break (1 - gamma lambda)^{3n} too."""
    broken = 0
    for seed in range(50):
        case = Case.make(seed, 1 + seed % 4, 0.5, spread=3.0)
        squared = case.squared_distances(4)
        broken += bool(squared[4] > (1 - case.gamma * case.potential.lam) ** 12 * squared[0])
    assert broken > 10


def test_flat_directions_have_no_equilibrium_but_a_step() -> None:
    potential = Quadratic(np.diag([1.0, 0.0]), [0.0, 0.0])
    step = forward_backward_step(GaussianState([1.0, 1.0], np.eye(2)), 1.0, potential)
    np.testing.assert_allclose(step.mean, [0.0, 1.0], atol=1e-15)
    spread = (1 + 2 + math.sqrt(5)) / 2
    np.testing.assert_allclose(step.covariance, np.diag([1.0, spread]), atol=1e-15)


def test_a_point_mass_gets_a_density() -> None:
    step = forward_backward_step(GaussianState([1.0, 1.0], np.zeros((2, 2))), 0.5, Quadratic.standard(2))
    np.testing.assert_allclose(step.covariance, 0.5 * np.eye(2))


Field = Callable[[Array], Array]


def quadratic_fields(potential: Quadratic) -> tuple[Field, Field]:
    """∇V and ∇²V at the rows of x."""
    return (
        lambda x: (x - potential.centre) @ potential.matrix,
        lambda x: np.broadcast_to(potential.matrix, (len(x), *potential.matrix.shape)),
    )


def rules(dim: int) -> dict[str, NormalRule]:
    """All exact for the gradient of a quadratic."""
    z = np.random.default_rng(0).normal(size=(7, dim))
    return {
        "mean": NormalRule.gauss_hermite(dim, nodes=1),
        "Gauss-Hermite": NormalRule.gauss_hermite(dim, nodes=5),
        "draws and their negatives": NormalRule(np.concatenate([z, -z])),
    }


@pytest.mark.parametrize("name", ["mean", "Gauss-Hermite", "draws and their negatives"])
@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_variational_step_of_a_quadratic_is_the_exact_step(dim: int, fraction: float, name: str) -> None:
    case, rule = Case.make(dim, dim, fraction), rules(dim)[name]
    gradient, hessian = quadratic_fields(case.potential)
    state = case.start
    for exact in case.run(5)[1:]:
        state = gaussian_variational_step(state, case.gamma, gradient, hessian, rule=rule)
        np.testing.assert_allclose(state.mean, exact.mean, atol=1e-12)
        np.testing.assert_allclose(state.covariance, exact.covariance, atol=1e-12)


@settings(max_examples=100)
@given(cases, st.sampled_from([1e-2, 1e-5, 1e-8]))
def test_inference_of_a_quadratic_ends_at_q_within_what_it_promises(case: Case, tolerance: float) -> None:
    """Distance <= 2 speed/lambda, for whatever gamma; a hundred steps may be too few for a small lambda."""
    gradient = quadratic_fields(case.potential)[0]
    result = gaussian_variational_inference(
        case.start,
        case.gamma,
        gradient,
        lambda x: case.potential.matrix,
        rule=NormalRule.gauss_hermite(case.start.dim, nodes=1),
        tolerance=tolerance,
        max_steps=100,
    )
    assert result.converged == (result.speed <= tolerance)
    assert result.steps == 100 or result.converged
    assert w2(result.state, case.potential.equilibrium) <= 2 * result.speed / case.potential.lam + 1e-12
    before = case.run(result.steps)[-2]
    assert w2(before, result.state) <= result.speed * case.gamma * (1 + 1e-9) + 1e-14


@pytest.mark.parametrize("fraction", [0.3, 1.0])
def test_inference_of_a_quadratic_converges_to_q(fraction: float) -> None:
    case = Case.make(5, 3, fraction)
    result = gaussian_variational_inference(
        case.start, case.gamma, *quadratic_fields(case.potential), rule=rules(3)["mean"], tolerance=1e-13
    )
    assert result.converged
    assert w2(result.state, case.potential.equilibrium) < 1e-12


@dataclass(frozen=True)
class LogCosh:
    """V(x) = |x|²/2 + Σ_j log cosh(u_j·x - a_j); everything about it is an integral in one dimension."""

    directions: Array
    offsets: Array

    @property
    def smoothness(self) -> float:
        return 1 + float(np.linalg.eigvalsh(self.directions.T @ self.directions)[-1])

    def gradient(self, x: Array) -> Array:
        return x + np.tanh(x @ self.directions.T - self.offsets) @ self.directions

    def hessian(self, x: Array) -> Array:
        weights = 1 / np.cosh(x @ self.directions.T - self.offsets) ** 2
        rank_one = np.einsum("nj,ja,jb->nab", weights, self.directions, self.directions)
        return np.eye(x.shape[1]) + rank_one

    def expect(self, state: GaussianState, function: Field) -> Array:
        """E function(u_j·x - a_j) for each j, by the trapezoid rule, which is exact to rounding here."""
        t, width = np.linspace(-12, 12, 4001, retstep=True)
        mean = self.directions @ state.mean - self.offsets
        variance = np.einsum("ja,ab,jb->j", self.directions, state.covariance, self.directions)
        values = function(mean[:, None] + np.sqrt(variance)[:, None] * t)
        return values @ np.exp(-(t**2) / 2) * width / math.sqrt(2 * math.pi)

    def divergence(self, state: GaussianState) -> float:
        """KL(N(m, Σ)‖q) up to a constant."""
        square = (state.mean @ state.mean + np.trace(state.covariance)) / 2
        wells = self.expect(state, lambda y: np.logaddexp(y, -y) - math.log(2)).sum()
        return float(square + wells - np.linalg.slogdet(state.covariance)[1] / 2)

    def stationarity(self, state: GaussianState) -> tuple[Array, Array]:
        """E∇V and E∇²V - Σ^{-1}, both 0 at the best Gaussian."""
        slope = state.mean + self.expect(state, np.tanh) @ self.directions
        weights = self.expect(state, lambda y: 1 / np.cosh(y) ** 2)
        curvature = np.eye(state.dim) + (self.directions.T * weights) @ self.directions
        return slope, curvature - np.linalg.inv(state.covariance)


WELLS = {
    "one": LogCosh(np.array([[1.0]]), np.array([1.5])),
    "two in one dimension": LogCosh(np.array([[0.8], [1.2]]), np.array([-1.0, 2.0])),
    "separable": LogCosh(np.eye(2), np.array([1.0, -3.0])),
    "coupled": LogCosh(np.array([[1.0, 0.5], [-0.4, 0.9], [0.3, -1.0]]), np.array([0.5, -1.0, 2.0])),
}


@pytest.mark.parametrize("name", WELLS)
@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_inference_ends_at_the_best_gaussian(name: str, fraction: float) -> None:
    potential = WELLS[name]
    dim = potential.directions.shape[1]
    result = gaussian_variational_inference(
        GaussianState(np.full(dim, 4.0), 0.01 * np.eye(dim)),
        fraction / potential.smoothness,
        potential.gradient,
        potential.hessian,
        rule=NormalRule.gauss_hermite(dim, nodes=64),
        tolerance=1e-11,
    )
    assert result.converged
    slope, curvature = potential.stationarity(result.state)
    assert np.abs(slope).max() < 1e-8
    assert np.abs(curvature).max() < 1e-8
    lowest, rng = potential.divergence(result.state), np.random.default_rng(0)
    for size in (1e-3, 1e-2, 1e-1, 1.0):
        for _ in range(10):
            twist = np.eye(dim) + size * rng.normal(size=(dim, dim))
            covariance = twist @ result.state.covariance @ twist.T
            mean = result.state.mean + size * rng.normal(size=dim)
            assert potential.divergence(GaussianState(result.state.mean, covariance)) > lowest
            assert potential.divergence(GaussianState(mean, result.state.covariance)) > lowest


def test_no_step_raises_the_divergence_and_the_limit_is_not_laplace() -> None:
    potential = WELLS["coupled"]
    state, rule = GaussianState([4.0, 4.0], 0.01 * np.eye(2)), NormalRule.gauss_hermite(2, nodes=64)
    values = []
    for _ in range(60):
        values.append(potential.divergence(state))
        state = gaussian_variational_step(
            state, 1 / potential.smoothness, potential.gradient, potential.hessian, rule=rule
        )
    assert np.diff(values).max() < 1e-13
    laplace = gaussian_variational_inference(
        state,
        1 / potential.smoothness,
        potential.gradient,
        potential.hessian,
        rule=NormalRule.gauss_hermite(2, nodes=1),
    ).state
    assert np.abs(potential.gradient(laplace.mean[None])).max() < 1e-7
    assert potential.divergence(laplace) > potential.divergence(state) + 1e-3


def test_points_come_near_the_exact_expectations_in_many_dimensions() -> None:
    """d = 20, separable, so that each coordinate has its own exact answer; and the same bits twice."""
    dim, offsets = 20, np.linspace(-2, 2, 20)
    potential = LogCosh(np.eye(dim), offsets)
    z = np.random.default_rng(1).normal(size=(4000, dim))

    def mean_hessian(x: Array) -> Array:
        return np.eye(dim) + np.diag((1 / np.cosh(x - offsets) ** 2).mean(0))

    def run(hessian: Field) -> GaussianState:
        start, rule = GaussianState(np.zeros(dim), np.eye(dim)), NormalRule(np.concatenate([z, -z]))
        return gaussian_variational_inference(start, 0.5, potential.gradient, hessian, rule=rule).state

    state = run(mean_hessian)
    slope, curvature = potential.stationarity(state)
    assert np.abs(slope).max() < 0.01
    assert np.abs(curvature).max() < 0.02
    again = run(mean_hessian)
    assert np.array_equal(state.mean, again.mean)
    assert np.array_equal(state.covariance, again.covariance)
    small = NormalRule(z[:50])
    one = gaussian_variational_step(state, 0.5, potential.gradient, potential.hessian, rule=small)
    other = gaussian_variational_step(state, 0.5, potential.gradient, mean_hessian, rule=small)
    assert w2(one, other) < 1e-13


@pytest.mark.parametrize("nodes", [1, 2, 7, 32])
def test_gauss_hermite_integrates_polynomials(nodes: int) -> None:
    rule = NormalRule.gauss_hermite(2, nodes=nodes)
    assert rule.points.shape == (nodes**2, 2)
    assert rule.weights.sum() == pytest.approx(1, rel=1e-14)
    for power in range(0, min(2 * nodes, 14), 2):
        moment = math.prod(range(power - 1, 0, -2))  # E z^2k = (2k - 1)!!
        for column in rule.points.T:
            assert rule.weights @ column**power == pytest.approx(moment, rel=1e-12)
    if nodes > 1:
        assert rule.weights @ (rule.points**2).prod(1) == pytest.approx(1, rel=1e-12)


def test_weights_count() -> None:
    """A rule of two nodes with unequal weights has a mean of its own."""
    rule = NormalRule([[0.0], [1.0]], [0.25, 0.75])
    state = gaussian_variational_step(
        GaussianState([0.0], [[4.0]]), 0.1, lambda x: x, lambda x: x[:, :, None] / 2, rule=rule
    )
    assert state.mean[0] == pytest.approx(-0.1 * 1.5)
    half = 2 * (1 - 0.1 * 0.75)
    assert state.covariance[0, 0] == pytest.approx(((half + math.sqrt(half**2 + 0.4)) / 2) ** 2)


def test_running_out_of_steps_is_told() -> None:
    gradient, hessian = quadratic_fields(Quadratic.standard(1))
    result = gaussian_variational_inference(
        GaussianState([9.0], [[1.0]]), 0.1, gradient, hessian, rule=rules(1)["mean"], max_steps=3
    )
    assert (result.steps, result.converged) == (3, False)
    assert result.speed == pytest.approx(9 * 0.9**2)


def test_three_hundred_dimensions_take_well_under_a_second() -> None:
    case = Case.make(0, 300, 1.0, least=1.0)
    forward_backward_step(case.start, case.gamma, case.potential)
    begin = time.perf_counter()
    forward_backward_step(case.start, case.gamma, case.potential)
    assert time.perf_counter() - begin < 1.0


def test_a_thousand_dimensions_are_possible() -> None:
    case = Case.make(0, 1000, 1.0, least=1.0)
    gradient, rule = quadratic_fields(case.potential)[0], NormalRule.gauss_hermite(1000, nodes=1)
    step = gaussian_variational_step(
        case.start, case.gamma, gradient, lambda x: case.potential.matrix, rule=rule
    )
    exact = forward_backward_step(case.start, case.gamma, case.potential)
    np.testing.assert_allclose(step.covariance, exact.covariance, atol=1e-11)
    assert kl(step, case.potential) < kl(case.start, case.potential)


POINT = GaussianState([0.0], [[1.0]])
RULE = NormalRule.gauss_hermite(1, nodes=3)
STANDARD = quadratic_fields(Quadratic.standard(1))
PLANE = GaussianState([0.0, 0.0], np.eye(2))
PLANE_RULE = NormalRule.gauss_hermite(2, nodes=3)


def vary(gamma: float = 0.5, gradient: Field = STANDARD[0], hessian: Field = STANDARD[1]) -> object:
    return gaussian_variational_step(POINT, gamma, gradient, hessian, rule=RULE)


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "gamma above 1/L": (
        lambda: forward_backward_step(POINT, 0.51, Quadratic([[2.0]], [0.0])),
        r"gamma: expected at most 1/L, here not above 0\.5, got 0\.51; take a smaller step",
    ),
    "gamma zero": (lambda: forward_backward_step(POINT, 0.0, Quadratic.standard(1)), "gamma: expected"),
    "gamma nan": (lambda: forward_backward_step(POINT, math.nan, Quadratic.standard(1)), "gamma: expected"),
    "gamma infinite": (
        lambda: forward_backward_step(POINT, math.inf, Quadratic([[0.0]], [0.0])),
        "gamma: expected a finite",
    ),
    "dimensions": (lambda: forward_backward_step(POINT, 0.5, Quadratic.standard(2)), "got 1 and 2"),
    "gamma of a variational step": (lambda: vary(gamma=1.01), "gamma: expected at most 1/L"),
    "negative gamma of a variational step": (lambda: vary(gamma=-1.0), "gamma: expected"),
    "dimension of the rule": (
        lambda: gaussian_variational_step(POINT, 0.5, *STANDARD, rule=PLANE_RULE),
        "got 1 and 2",
    ),
    "dimension of the start": (
        lambda: gaussian_variational_inference(PLANE, 0.5, *STANDARD, rule=RULE),
        "got 2 and 1",
    ),
    "gradient shape": (lambda: vary(gradient=lambda x: x[:, 0]), r"gradient: expected .* \(3, 1\)"),
    "gradient nan": (lambda: vary(gradient=lambda x: x * math.nan), "gradient: expected a finite"),
    "hessian shape": (lambda: vary(hessian=lambda x: x[:, 0]), r"hessian: expected .* \(3, 1, 1\)"),
    "hessian as a gradient": (lambda: vary(hessian=lambda x: x), r"hessian: expected .* \(1, 1\)"),
    "hessian nan": (lambda: vary(hessian=lambda x: np.full((1, 1), math.nan)), "hessian: expected a finite"),
    "hessian asymmetric": (
        lambda: gaussian_variational_step(
            PLANE, 0.5, lambda x: x, lambda x: np.array([[1.0, 0.5], [0.0, 1.0]]), rule=PLANE_RULE
        ),
        "symmetric",
    ),
    "tolerance": (
        lambda: gaussian_variational_inference(POINT, 0.5, *STANDARD, rule=RULE, tolerance=0.0),
        "tolerance: expected",
    ),
    "max_steps": (
        lambda: gaussian_variational_inference(POINT, 0.5, *STANDARD, rule=RULE, max_steps=0),
        "max_steps: expected",
    ),
    "points shape": (lambda: NormalRule([0.0, 1.0]), r"points: expected .* \(n, d\)"),
    "points nan": (lambda: NormalRule([[math.nan]]), "points: expected finite"),
    "weights shape": (lambda: NormalRule([[0.0]], [0.5, 0.5]), "weights: expected 1"),
    "weights negative": (lambda: NormalRule([[0.0], [1.0]], [-0.5, 1.5]), "weights: expected 2"),
    "weights sum": (lambda: NormalRule([[0.0], [1.0]], [1.0, 1.0]), "divide them by their sum"),
    "no nodes": (lambda: NormalRule.gauss_hermite(2, nodes=0), "got 2 and 0"),
    "no dimension": (lambda: NormalRule.gauss_hermite(0), "got 0 and 32"),
    "too many points": (lambda: NormalRule.gauss_hermite(20, nodes=2), "pass standard normal points"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str) -> None:
    refused, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        refused()


def test_the_limit_of_gamma_itself_is_allowed() -> None:
    for seed in range(50):
        case = Case.make(seed, 1 + seed % 7, 1.0)
        forward_backward_step(case.start, case.gamma, case.potential)


def test_a_double_well_may_have_a_hessian_that_is_not_definite() -> None:
    """V = x⁴/4 - x²: ∇²V(0) = -2, and the best Gaussian at m = 0 has 1/Σ = 3Σ - 2, so Σ = 1."""
    result = gaussian_variational_inference(
        GaussianState([0.0], [[0.1]]),
        0.05,
        lambda x: x**3 - 2 * x,
        lambda x: (3 * x**2 - 2)[:, :, None],
        rule=NormalRule.gauss_hermite(1, nodes=5),
        tolerance=1e-12,
    )
    assert result.converged
    np.testing.assert_allclose(result.state.covariance, [[1.0]], rtol=1e-11)


def test_rules_and_results_cannot_be_changed() -> None:
    rule = NormalRule.gauss_hermite(1, nodes=2)
    for array in (rule.points, rule.weights):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1.0
    result = gaussian_variational_inference(POINT, 0.5, *STANDARD, rule=RULE)
    with pytest.raises(FrozenInstanceError):
        result.steps = 0

"""The proximal objective: each term against its closed form for an affine map of Gaussian particles.

With x ~ N(m, S) and T(x) = A x + b, exactly:

    E[V(T)] = (tr(A S A^T) + |A m + b|^2)/2,  E[log|det dT|] = log|det A|,
    E|x - T|^2 = tr((A - I) S (A - I)^T) + |(A - I) m + b|^2,
    KL(T_# p | q) = E[V(T)] - E[log|det dT|] - H(p) + log Z.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from jkoflow.blocks import AffineBlock, Block, NeuralODEBlock
from jkoflow.blocks.log_det import push_with_log_det_by
from jkoflow.errors import InputError
from jkoflow.exact.gaussian import GaussianState, Quadratic, jko_step, kl, transport_map, w2
from jkoflow.functionals import FUNCTIONALS, KL, Functional, ProximalObjective, Pushed, Terms
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles
from oracles.blocks import generator, make_velocity, points

MEAN = torch.tensor([1.0, -0.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.2, 0.4], [0.4, 0.5]], dtype=torch.float64)
MATRIX = torch.tensor([[0.7, 0.2], [0.2, 1.6]], dtype=torch.float64)
OFFSET = torch.tensor([0.3, -0.8], dtype=torch.float64)
GAMMA = 0.4


def exact_moments(n: int = 2000) -> Particles:
    """Particles whose sample mean and covariance (divided by n) are MEAN and COVARIANCE to rounding."""
    z = points(n, 2)
    z = z - z.mean(dim=0)
    z = z @ torch.linalg.inv(torch.linalg.cholesky(z.T @ z / n)).T
    return Particles(MEAN + z @ torch.linalg.cholesky(COVARIANCE).T)


def affine() -> AffineBlock:
    return AffineBlock(dim=2, gamma=GAMMA, matrix=MATRIX, offset=OFFSET)


def objective(gamma: float) -> ProximalObjective:
    return ProximalObjective(KL(StandardNormal(2)), gamma)


def terms_of(block: Block, *, gamma: float = GAMMA, divergence: str = "determinant") -> Terms:
    push = push_with_log_det_by(divergence, dim=2, generator=generator())
    return objective(gamma).terms(block, exact_moments(), None, push)


def test_potential_term() -> None:
    after = MATRIX @ COVARIANCE @ MATRIX.T
    expected = (after.trace() + (MATRIX @ MEAN + OFFSET).square().sum()) / 2
    assert float(terms_of(affine()).functional["potential"]) == pytest.approx(float(expected), rel=1e-10)


def test_log_determinant_term() -> None:
    """A shrinks volume where det A < 1: the term is then positive."""
    assert float(terms_of(affine()).functional["neg_log_det"]) == pytest.approx(
        -math.log(0.7 * 1.6 - 0.04), rel=1e-10
    )
    shrinking = AffineBlock(dim=2, matrix=MATRIX / 3, offset=OFFSET)
    assert float(terms_of(shrinking).functional["neg_log_det"]) > 0


def test_transport_term() -> None:
    shift = MATRIX - torch.eye(2, dtype=torch.float64)
    moved = (shift @ COVARIANCE @ shift.T).trace() + (shift @ MEAN + OFFSET).square().sum()
    terms = terms_of(affine())
    assert float(terms.moved) == pytest.approx(float(moved), rel=1e-10)
    assert float(terms.transport) == pytest.approx(float(moved) / (2 * GAMMA), rel=1e-10)


def test_total_is_the_sum_of_the_three_terms() -> None:
    named = {"potential": torch.tensor(1.0), "neg_log_det": torch.tensor(20.0)}
    terms = Terms(named, torch.tensor(300.0), torch.tensor(4000.0))
    assert float(terms.total) == 321


def test_total_is_the_proximal_objective_up_to_the_entropy() -> None:
    """L(T) = KL(T_# p | q) + H(p) - log Z + W2^2/(2 gamma), the optimal map's transport cost being W2^2."""
    before = GaussianState(MEAN.numpy(), COVARIANCE.numpy())
    after = GaussianState((MATRIX @ MEAN + OFFSET).numpy(), (MATRIX @ COVARIANCE @ MATRIX.T).numpy())
    entropy = 0.5 * float(torch.logdet(COVARIANCE)) + 1 + math.log(2 * math.pi)
    expected = kl(after, Quadratic.standard(2)) + entropy - math.log(2 * math.pi)
    expected += w2(before, after) ** 2 / (2 * GAMMA)
    assert float(terms_of(affine()).total) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.5, math.inf])
def test_exact_step_is_the_stationary_point(gamma: float) -> None:
    """The gradient over all affine maps vanishes at the closed-form step, and nowhere near it."""
    before = GaussianState(MEAN.numpy(), COVARIANCE.numpy())
    step = transport_map(before, jko_step(before, gamma, Quadratic.standard(2)))
    matrix = torch.tensor(step.matrix, requires_grad=True)
    offset = torch.tensor(step.target - step.matrix @ step.source, requires_grad=True)
    x = exact_moments().x

    def gradient() -> float:
        y = x @ matrix.T + offset
        log_det = torch.linalg.slogdet(matrix)[1].expand(len(x))
        total = objective(gamma).terms_of(Pushed(Particles(x), y, log_det)).total
        return max(float(g.abs().max()) for g in torch.autograd.grad(total, (matrix, offset)))

    assert gradient() < 1e-9
    with torch.no_grad():
        offset += 0.05
    assert gradient() > 0.04


def test_free_step_has_no_transport_term() -> None:
    terms = terms_of(affine(), gamma=math.inf)
    assert float(terms.transport) == 0
    assert float(terms.moved) > 0
    assert float(terms.total) == float(terms.functional["potential"] + terms.functional["neg_log_det"])


def test_terms_of_a_network_are_those_of_the_map_it_is() -> None:
    """Through `terms`, the way training goes: potential and transport at push(x), and its determinant."""
    block = NeuralODEBlock(make_velocity(2), gamma=GAMMA, steps=2).requires_grad_(False)
    x = exact_moments().x
    y, log_det = block.push_with_log_det(x)
    terms = terms_of(block)
    assert float(terms.functional["potential"]) == pytest.approx(
        float(y.square().sum(dim=1).mean() / 2), rel=1e-12
    )
    assert float(terms.functional["neg_log_det"]) == pytest.approx(-float(log_det.mean()), rel=1e-12)
    assert float(terms.moved) == pytest.approx(
        float((y - block.pull(y)).square().sum(dim=1).mean()), rel=1e-8
    )


def test_terms_are_means_over_rows_and_differentiable() -> None:
    block = NeuralODEBlock(make_velocity(2), gamma=GAMMA, steps=1)
    terms = terms_of(block)
    for term in (terms.functional["potential"], terms.functional["neg_log_det"], terms.transport):
        assert term.shape == ()
        assert float(torch.autograd.grad(term, block.velocity.out.weight, retain_graph=True)[0].norm()) > 0
    twice = Particles(exact_moments().x.repeat(2, 1))
    push = push_with_log_det_by("determinant", dim=2, generator=generator())
    again = objective(GAMMA).terms(block, twice, None, push)
    assert float(again.total.detach()) == pytest.approx(float(terms.total.detach()), rel=1e-12)


def test_other_base_laws_use_their_own_potential() -> None:
    """V = |x|^2/2 belongs to the standard normal law alone."""

    class Far(StandardNormal):
        def potential(self, x: Tensor) -> Tensor:
            return (x - 5).square().sum(-1)

    y = points(10, 2)
    terms = ProximalObjective(KL(Far(2)), 1.0).terms_of(Pushed(Particles(y), y, torch.zeros(10)))
    assert float(terms.functional["potential"]) == pytest.approx(float((y - 5).square().sum(1).mean()))


@pytest.mark.parametrize("gamma", [0.0, -1.0, math.nan])
def test_step_size_must_be_positive(gamma: float) -> None:
    with pytest.raises(InputError, match="gamma: expected a number > 0"):
        objective(gamma)


@pytest.mark.parametrize("gamma", [1e-6, 1.99, 2.0, 50.0])
def test_any_positive_step_size_is_allowed(gamma: float) -> None:
    moved = float(terms_of(affine()).moved)
    assert float(terms_of(affine(), gamma=gamma).transport) == pytest.approx(moved / (2 * gamma))


# ── every functional ──


@pytest.fixture(params=FUNCTIONALS)
def functional(request: pytest.FixtureRequest) -> Functional:
    return FUNCTIONALS[request.param](StandardNormal(2))


def pushed_by(block: Block) -> Pushed:
    rows = exact_moments(200)
    return Pushed(rows, *block.push_with_log_det(rows.x))


def test_value_is_the_sum_of_the_terms_at_each_row(functional: Functional) -> None:
    pushed = pushed_by(affine())
    state = functional.update(functional.init(pushed.before), pushed)
    terms = functional.terms(state, pushed)
    assert all(term.shape == (200,) for term in terms.values())
    torch.testing.assert_close(functional.value(state, pushed), torch.stack([*terms.values()]).sum(dim=0))


def test_value_can_be_differentiated_in_the_block(functional: Functional) -> None:
    block = NeuralODEBlock(make_velocity(2), gamma=GAMMA, steps=1)
    pushed = pushed_by(block)
    value = functional.value(functional.init(pushed.before), pushed).mean()
    assert float(torch.autograd.grad(value, block.velocity.out.weight)[0].norm()) > 0


def test_functional_ends_in_its_law_and_is_as_convex(functional: Functional) -> None:
    assert functional.law == StandardNormal(2)
    assert functional.lam is None or functional.lam == functional.law.lam


def test_terms_count_a_row_by_its_weight() -> None:
    weight = torch.randint(0, 4, (200,), generator=generator(5))
    rows = exact_moments(200)
    weighted = Particles(rows.x, weight=weight.double())
    copied = Particles(rows.x.repeat_interleave(weight, 0))
    push = push_with_log_det_by("determinant", dim=2, generator=generator())
    one, other = (objective(GAMMA).terms(affine(), each, None, push).to_dict() for each in (weighted, copied))
    assert one == pytest.approx(other, rel=1e-9)


def test_oracle_moments_are_exact() -> None:
    """What the closed forms above stand on."""
    state = GaussianState.from_samples(exact_moments().x.numpy())
    np.testing.assert_allclose(state.mean, MEAN, atol=1e-12)
    np.testing.assert_allclose(state.covariance, COVARIANCE, atol=1e-12)


def test_training_on_the_determinant_sees_folds() -> None:
    """A reflection has |det| = 1 and is no density's map."""

    def loss(matrix: Tensor) -> float:
        return float(terms_of(AffineBlock(dim=2, gamma=GAMMA, matrix=matrix)).functional["neg_log_det"])

    straight = torch.eye(2, dtype=torch.float64)
    assert loss(straight) == pytest.approx(0.0)
    assert loss(torch.diag(torch.tensor([-1.0, 1.0], dtype=torch.float64))) > 100

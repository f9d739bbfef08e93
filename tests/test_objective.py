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
from jkoflow.errors import InputError
from jkoflow.exact.gaussian import GaussianState, Quadratic, jko_step, kl, transport_map, w2
from jkoflow.laws import StandardNormal
from jkoflow.objective import (
    DIVERGENCES,
    KLObjective,
    Terms,
    penalised_log_det,
    push_with_log_det_by,
)
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


def terms_of(block: Block, *, gamma: float = GAMMA, divergence: str = "determinant") -> Terms:
    push = push_with_log_det_by(divergence, dim=2, generator=generator())
    return KLObjective(StandardNormal(2), gamma).terms(block, exact_moments(), None, push)


def test_potential_term() -> None:
    after = MATRIX @ COVARIANCE @ MATRIX.T
    expected = (after.trace() + (MATRIX @ MEAN + OFFSET).square().sum()) / 2
    assert float(terms_of(affine()).potential) == pytest.approx(float(expected), rel=1e-10)


def test_log_determinant_term() -> None:
    """A shrinks volume where det A < 1: the term is then positive."""
    assert float(terms_of(affine()).neg_log_det) == pytest.approx(-math.log(0.7 * 1.6 - 0.04), rel=1e-10)
    shrinking = AffineBlock(dim=2, matrix=MATRIX / 3, offset=OFFSET)
    assert float(terms_of(shrinking).neg_log_det) > 0


def test_transport_term() -> None:
    shift = MATRIX - torch.eye(2, dtype=torch.float64)
    moved = (shift @ COVARIANCE @ shift.T).trace() + (shift @ MEAN + OFFSET).square().sum()
    terms = terms_of(affine())
    assert float(terms.moved) == pytest.approx(float(moved), rel=1e-10)
    assert float(terms.transport) == pytest.approx(float(moved) / (2 * GAMMA), rel=1e-10)


def test_total_is_the_sum_of_the_three_terms() -> None:
    terms = Terms(torch.tensor(1.0), torch.tensor(20.0), torch.tensor(300.0), torch.tensor(4000.0))
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
        total = KLObjective(StandardNormal(2), gamma).terms_of(x, y, log_det).total
        return max(float(g.abs().max()) for g in torch.autograd.grad(total, (matrix, offset)))

    assert gradient() < 1e-9
    with torch.no_grad():
        offset += 0.05
    assert gradient() > 0.04


def test_free_step_has_no_transport_term() -> None:
    terms = terms_of(affine(), gamma=math.inf)
    assert float(terms.transport) == 0
    assert float(terms.moved) > 0
    assert float(terms.total) == float(terms.potential + terms.neg_log_det)


def test_terms_of_a_network_are_those_of_the_map_it_is() -> None:
    """Through `terms`, the way training goes: potential and transport at push(x), and its determinant."""
    block = NeuralODEBlock(make_velocity(2), gamma=GAMMA, steps=2).requires_grad_(False)
    x = exact_moments().x
    y, log_det = block.push_with_log_det(x)
    terms = terms_of(block)
    assert float(terms.potential) == pytest.approx(float(y.square().sum(dim=1).mean() / 2), rel=1e-12)
    assert float(terms.neg_log_det) == pytest.approx(-float(log_det.mean()), rel=1e-12)
    assert float(terms.moved) == pytest.approx(
        float((y - block.pull(y)).square().sum(dim=1).mean()), rel=1e-8
    )


def test_terms_are_means_over_rows_and_differentiable() -> None:
    block = NeuralODEBlock(make_velocity(2), gamma=GAMMA, steps=1)
    terms = terms_of(block)
    for term in (terms.potential, terms.neg_log_det, terms.transport):
        assert term.shape == ()
        assert float(torch.autograd.grad(term, block.velocity.out.weight, retain_graph=True)[0].norm()) > 0
    twice = Particles(exact_moments().x.repeat(2, 1))
    push = push_with_log_det_by("determinant", dim=2, generator=generator())
    again = KLObjective(StandardNormal(2), GAMMA).terms(block, twice, None, push)
    assert float(again.total.detach()) == pytest.approx(float(terms.total.detach()), rel=1e-12)


def test_other_base_laws_use_their_own_potential() -> None:
    """V = |x|^2/2 belongs to the standard normal law alone."""

    class Far(StandardNormal):
        def potential(self, x: Tensor) -> Tensor:
            return (x - 5).square().sum(-1)

    y = points(10, 2)
    terms = KLObjective(Far(2), 1.0).terms_of(y, y, torch.zeros(10))
    assert float(terms.potential) == pytest.approx(float((y - 5).square().sum(1).mean()))


@pytest.mark.parametrize("gamma", [0.0, -1.0, math.nan])
def test_step_size_must_be_positive(gamma: float) -> None:
    with pytest.raises(InputError, match="gamma: expected a number > 0"):
        KLObjective(StandardNormal(2), gamma)


@pytest.mark.parametrize("gamma", [1e-6, 1.99, 2.0, 50.0])
def test_any_positive_step_size_is_allowed(gamma: float) -> None:
    moved = float(terms_of(affine()).moved)
    assert float(terms_of(affine(), gamma=gamma).transport) == pytest.approx(moved / (2 * gamma))


def test_unknown_divergence_is_refused() -> None:
    with pytest.raises(InputError, match=r"divergence: expected one of .*, got 'approximate'"):
        push_with_log_det_by("approximate", dim=2, generator=generator())


def test_hutchinson_draws_a_fresh_probe_each_time() -> None:
    block = NeuralODEBlock(make_velocity(4, seed=1), gamma=GAMMA, steps=1).requires_grad_(False)
    batch = Particles(points(16, 4))
    push = push_with_log_det_by("hutchinson", dim=4, generator=generator(1))
    first, second = push(block, batch)[1], push(block, batch)[1]
    assert not torch.equal(first, second)
    again = push_with_log_det_by("hutchinson", dim=4, generator=generator(1))
    assert torch.equal(again(block, batch)[1], first)


def test_deterministic_divergences_draw_nothing() -> None:
    block = NeuralODEBlock(make_velocity(2), gamma=GAMMA, steps=1).requires_grad_(False)
    for divergence in set(DIVERGENCES) - {"hutchinson"}:
        source = generator(1)
        push_with_log_det_by(divergence, dim=2, generator=source)(block, Particles(points(4, 2)))
        assert torch.equal(source.get_state(), generator(1).get_state()), divergence


def test_objective_has_no_state_of_its_own() -> None:
    objective, batch = KLObjective(StandardNormal(2), 1.0), exact_moments()
    assert objective.init(batch, 0) is None
    assert objective.update(None, batch) is None
    assert objective == KLObjective(StandardNormal(2), 1.0)


def test_oracle_moments_are_exact() -> None:
    """What the closed forms above stand on."""
    state = GaussianState.from_samples(exact_moments().x.numpy())
    np.testing.assert_allclose(state.mean, MEAN, atol=1e-12)
    np.testing.assert_allclose(state.covariance, COVARIANCE, atol=1e-12)


def test_penalised_log_det_is_the_logarithm_where_no_map_folds() -> None:
    matrices = torch.eye(3, dtype=torch.float64) + 0.2 * points(9, 9).reshape(9, 3, 3)
    torch.testing.assert_close(penalised_log_det(matrices), torch.linalg.slogdet(matrices)[1])


def test_penalised_log_det_goes_on_as_the_tangent_below_a_small_determinant() -> None:
    """det A = a m with m = e^{-6}: log m + a - 1, of the logarithm's slope at a = 1, and continuous there."""
    ratio = torch.tensor([1.0, 0.5, 0.0, -1.0, -3.0], dtype=torch.float64, requires_grad=True)
    small = math.exp(-6)
    matrices = torch.diag_embed(torch.stack([ratio * small, torch.ones_like(ratio)], dim=1))
    values = penalised_log_det(matrices)
    torch.testing.assert_close(values, -6 + ratio - 1)
    off_zero = [0, 1, 3, 4]  # the logarithm has no derivative where the matrix is singular
    slope = torch.autograd.grad(values[off_zero].sum(), ratio)[0][off_zero]
    torch.testing.assert_close(slope, torch.ones(4, dtype=torch.float64))


def test_training_on_the_determinant_sees_folds() -> None:
    """A reflection has |det| = 1 and is no density's map."""

    def loss(matrix: Tensor) -> float:
        return float(terms_of(AffineBlock(dim=2, gamma=GAMMA, matrix=matrix)).neg_log_det)

    straight = torch.eye(2, dtype=torch.float64)
    assert loss(straight) == pytest.approx(0.0)
    assert loss(torch.diag(torch.tensor([-1.0, 1.0], dtype=torch.float64))) > 100

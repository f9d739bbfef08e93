"""Scores by change of variables against closed forms, and xi' where it is known: exact, own, kernel."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch

from jkoflow.blocks import AffineBlock, NeuralODEBlock
from jkoflow.errors import InputError
from jkoflow.exact import AffineError, GaussianState, Quadratic, jko_step, transport_map
from jkoflow.first_order import (
    StepPairs,
    exact_residual,
    kernel_floor,
    kernel_residual,
    kernel_score,
    norm_of,
    own_residual,
    own_scores,
    potential_gradient,
    push_with_derivatives,
    pushed_score,
)
from jkoflow.first_order.exact import rows_of_a_graph
from jkoflow.flow import Flow
from jkoflow.laws import Gaussian, StandardNormal
from jkoflow.particles import Particles
from oracles.blocks import (
    DTYPES,
    autodiff_log_det,
    context_for,
    generator,
    make_block,
    make_velocity,
    points,
)

STEPPED = ("affine", "neural_ode", "neural_ode_steps", "neural_ode_context", "neural_ode_taper")


def normal_rows(n: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dim, generator=generator(seed), dtype=torch.float64)


def gaussian_step(dim: int, gamma: float, size: float):
    """A Gaussian step with an injected error of that size: block, state before, state after, its norm."""
    rng = np.random.default_rng(dim)
    root = rng.normal(size=(dim, dim)) / math.sqrt(dim)
    state = GaussianState(rng.normal(size=dim), 0.4 * np.eye(dim) + root @ root.T)
    symmetric = rng.normal(size=(dim, dim))
    error = AffineError(size * rng.normal(size=dim), size * (symmetric + symmetric.T) / (4 * dim))
    after = jko_step(state, gamma, Quadratic.standard(dim), error=error)
    found = transport_map(state, after)
    matrix = torch.tensor(found.matrix)
    offset = torch.tensor(found.target - found.matrix @ found.source)
    return AffineBlock(dim=dim, gamma=gamma, matrix=matrix, offset=offset), state, error, error.norm(after)


def rows_of(state: GaussianState, n: int, seed: int = 1) -> torch.Tensor:
    root = torch.linalg.cholesky(torch.tensor(state.covariance))
    return torch.tensor(state.mean) + normal_rows(n, state.dim, seed) @ root.T


def score_of(state: GaussianState, x: torch.Tensor) -> torch.Tensor:
    return -torch.linalg.solve(torch.tensor(state.covariance), (x - torch.tensor(state.mean)).T).T


# ── the score, pushed and pulled ──


@pytest.mark.parametrize("name", STEPPED)
def test_derivatives_are_those_of_autodiff(name):
    block = make_block(name, dim=3)
    x, context = points(7, 3), context_for(block, 7, torch.float64)
    found = push_with_derivatives(block, x, context)
    torch.testing.assert_close(found.image, block.push(x, context))
    at = x.clone().requires_grad_()
    log_det = autodiff_log_det(block, at, context)
    expected = torch.autograd.grad(log_det.sum(), at)[0] if log_det.requires_grad else torch.zeros_like(x)
    torch.testing.assert_close(found.log_det_gradient, expected, atol=1e-9, rtol=1e-7)
    moved = 1e-6 * torch.eye(3, dtype=torch.float64)
    numeric = [(block.push(x + h, context) - block.push(x - h, context)) / 2e-6 for h in moved]
    torch.testing.assert_close(found.jacobian, torch.stack(numeric, dim=2), atol=1e-7, rtol=1e-6)


def test_pushed_score_of_a_gaussian_under_an_affine_map():
    block, state, error, _ = gaussian_step(4, 0.7, 0.3)
    x = rows_of(state, 50)
    y, score = pushed_score(block, x, score_of(state, x))
    after = jko_step(state, 0.7, Quadratic.standard(4), error=error)
    torch.testing.assert_close(score, score_of(after, y), atol=1e-9, rtol=1e-9)


def test_pushed_score_is_the_gradient_of_the_pushed_density():
    """In one dimension, by differences of log p_1(T(x)) over T(x)."""
    block = make_block("neural_ode", dim=1)
    x = torch.linspace(-2, 2, 2001, dtype=torch.float64)[:, None]
    y, score = pushed_score(block, x, -x)
    density = -x[:, 0].square() / 2 - block.push_with_log_det(x)[1]
    numeric = (density[2:] - density[:-2]) / (y[2:, 0] - y[:-2, 0])
    torch.testing.assert_close(score[1:-1, 0], numeric, atol=2e-4, rtol=1e-3)


def test_rows_are_taken_in_parts(monkeypatch):
    block, x = make_block("neural_ode"), points(30, 3)
    whole = pushed_score(block, x, -x)[1]
    flow, rows = Flow(StandardNormal(3), [block, make_block("neural_ode_steps")]), Particles(x)
    own = own_scores(flow, rows)
    for module in ("exact", "own"):
        monkeypatch.setattr(
            f"jkoflow.first_order.{module}.rows_of_a_graph", partial(rows_of_a_graph, entries=7 * 24)
        )
    torch.testing.assert_close(pushed_score(block, x, -x)[1], whole)
    for one, other in zip(own_scores(flow, rows), own, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", DTYPES)
def test_own_scores_are_gradients_of_the_likelihood_of_what_is_left(dtype):
    blocks = [make_block(name, dtype) for name in ("neural_ode", "affine", "neural_ode_steps")]
    flow, rows = Flow(StandardNormal(3), blocks), Particles(points(5, 3, dtype))
    at = rows.x
    for level, score in enumerate(own_scores(flow, rows)):
        here = at.clone().requires_grad_()
        y, total = here, torch.zeros(len(here), dtype=dtype)
        for block in blocks[level:]:
            y, log_det = block.push_with_log_det(y)
            total = total + log_det
        (expected,) = torch.autograd.grad((flow.law.log_prob(y) + total).sum(), here)
        torch.testing.assert_close(score, expected)
        at = blocks[level].push(at) if level < len(blocks) else at


def test_own_scores_undo_pushed_scores_where_the_model_is_right():
    """p_0 = q_0 by construction: pushing its score forward gives the model's own at every level."""
    blocks = [make_block("neural_ode"), make_block("affine"), make_block("neural_ode_steps")]
    flow, x = Flow(StandardNormal(3), blocks), points(6, 3)
    own = own_scores(flow, Particles(x))
    score = own[0]
    for block, expected in zip(blocks, own[1:], strict=True):
        x, score = pushed_score(block, x, score)
        torch.testing.assert_close(score, expected, atol=1e-8, rtol=1e-8)


def test_own_residual_of_the_last_block_is_its_displacement():
    block = make_block("neural_ode")
    rows = Particles(points(40, 3))
    pairs = StepPairs.of(block, rows, StandardNormal(3))
    score = own_scores(Flow(StandardNormal(3), [block]), rows)[1]
    torch.testing.assert_close(own_residual(pairs, score), (pairs.after - pairs.before) / block.gamma)


# ── xi' where it is known ──


@pytest.mark.parametrize("size", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("gamma", [0.3, 2.0])
def test_exact_residual_is_the_injected_error(size, gamma):
    block, state, error, norm = gaussian_step(3, gamma, size)
    x = rows_of(state, 20_000)
    y, score = pushed_score(block, x, score_of(state, x))
    xi = exact_residual(StepPairs(x, y, gamma, StandardNormal(3)), score)
    mean = torch.tensor(jko_step(state, gamma, Quadratic.standard(3), error=error).mean)
    expected = torch.tensor(error.shift) + (y - mean) @ torch.tensor(error.matrix)
    torch.testing.assert_close(xi, expected, atol=1e-9, rtol=1e-9)
    assert norm_of(xi).value == pytest.approx(norm, rel=0.02, abs=1e-9)


def test_identity_step_has_the_gradient_itself():
    """T = id at N((3,3), I): xi = y - (y - (3,3)) = (3,3), of square 18, whatever gamma."""
    x = 3 + normal_rows(100, 2)
    xi = exact_residual(StepPairs(x, x, 0.5, StandardNormal(2)), 3 - x)
    torch.testing.assert_close(xi, torch.full_like(x, 3.0))
    found = norm_of(xi)
    assert found.square == pytest.approx(18)
    assert found.se == pytest.approx(0, abs=1e-12)


def test_free_step_has_no_transport_term():
    x = normal_rows(50, 2)
    pairs = StepPairs(x, 5 + 0 * x, math.inf, StandardNormal(2))
    torch.testing.assert_close(pairs.known, pairs.after)
    assert pairs.step_length == pytest.approx(float((5 - x).square().sum(1).mean().sqrt()))


def test_potential_of_another_base():
    base = Gaussian(mean=torch.tensor([1.0, 0.0]), covariance=torch.diag(torch.tensor([4.0, 0.25])))
    x = normal_rows(5, 2)
    expected = (x - torch.tensor([1.0, 0.0])) / torch.tensor([4.0, 0.25])
    torch.testing.assert_close(potential_gradient(base, x), expected)


def test_norm_of_rows_and_its_interval():
    xi = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    found = norm_of(xi)
    assert found.square == pytest.approx(13)
    assert found.value == pytest.approx(math.sqrt(13))
    assert found.se == pytest.approx(24 / math.sqrt(2) / math.sqrt(2))
    low, high = found.interval(1.0)
    assert (low, high) == (pytest.approx(1.0), pytest.approx(5.0))
    assert found.interval(2.0)[0] == 0


@pytest.mark.parametrize(
    ("after", "gamma", "wrong"), [(torch.zeros(3, 2), 1.0, "pairs"), (torch.zeros(4, 2), 0.0, "gamma")]
)
def test_wrong_pairs_are_refused(after, gamma, wrong):
    with pytest.raises(InputError, match=wrong):
        StepPairs(torch.zeros(4, 2), after, gamma, StandardNormal(2))


# ── the kernel ──


def test_kernel_score_of_one_point_and_of_two():
    at = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    one = kernel_score(at, torch.zeros(1, 1, dtype=torch.float64), variance=0.25)
    torch.testing.assert_close(one, -at / 0.25)
    two = kernel_score(at, torch.tensor([[-1.0], [1.0]], dtype=torch.float64), variance=0.25)
    torch.testing.assert_close(two, (torch.tanh(at / 0.25) - at) / 0.25)


def test_kernel_score_tends_to_that_of_the_smoothed_law():
    """Rows of N(0, 1) and a kernel of variance h: the score of N(0, 1 + h)."""
    at = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    found = kernel_score(at, normal_rows(40_000, 1), variance=0.3)
    torch.testing.assert_close(found, -at / 1.3, atol=0.05, rtol=0)


def test_kernel_residual_of_the_identity_step_and_its_floor():
    """p_1 = p_0 = N((3,3), I): xi = (3,3), seen through the floor; at the true minimiser only the floor."""
    one, other = 3 + normal_rows(1000, 2, 1), 3 + normal_rows(1000, 2, 2)
    found = norm_of(kernel_residual(one, other, gamma=0.5, base=StandardNormal(2)))
    assert found.square == pytest.approx(18, abs=2)
    at_minimiser = norm_of(kernel_residual(one, other - 1, gamma=0.5, base=StandardNormal(2)))
    floor = kernel_floor(one, gamma=0.5, rows=1000, generator=generator(5))
    assert 0.4 < floor < 0.9
    assert at_minimiser.value == pytest.approx(floor, rel=0.25)


def test_kernel_of_a_free_step_has_no_transport():
    one, other = normal_rows(50, 2, 1), normal_rows(50, 2, 2)
    found = kernel_residual(one, other, gamma=math.inf, base=StandardNormal(2))
    torch.testing.assert_close(found, other + kernel_score(other, other))


def test_wrong_kernel_arguments_are_refused():
    x = normal_rows(5, 2)
    with pytest.raises(InputError, match="variance"):
        kernel_score(x, x, variance=0.0)
    with pytest.raises(InputError, match="before"):
        kernel_residual(x[:3], x, gamma=1.0, base=StandardNormal(2))


def test_rows_of_a_graph_fall_with_the_solver_steps() -> None:
    one, many = (NeuralODEBlock(make_velocity(3), gamma=1.0, steps=steps) for steps in (1, 8))
    assert rows_of_a_graph(many) == rows_of_a_graph(one) // 8
    assert rows_of_a_graph(one) == rows_of_a_graph(make_block("affine", dim=3))

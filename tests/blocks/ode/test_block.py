"""The neural-ODE block: the discrete map, its inverse by refinement, and what it says where there is none."""

from __future__ import annotations

import math

import pytest
import torch

from jkoflow.blocks import NeuralODEBlock
from jkoflow.blocks.inverse import broyden_step
from jkoflow.blocks.ode.trace import exact_probes
from oracles.blocks import autodiff_log_det, coarse_block, generator, make_block, make_velocity, points


def ode_block(name: str = "neural_ode", dim: int = 3, dtype: torch.dtype = torch.float64) -> NeuralODEBlock:
    block = make_block(name, dtype, dim)
    assert isinstance(block, NeuralODEBlock)
    return block


def folding_block() -> NeuralODEBlock:
    """One Runge-Kutta step of a field so strong that the map is not one to one, nor onto."""
    return NeuralODEBlock(make_velocity(2, seed=6, strength=2.0), gamma=1.0, steps=1).requires_grad_(False)


def test_untrained_block_is_the_identity() -> None:
    field = make_velocity(2)
    torch.nn.init.zeros_(field.out.weight)
    torch.nn.init.zeros_(field.out.bias)
    x = points(5, 2)
    y, log_det = NeuralODEBlock(field, gamma=1.0, steps=2).push_with_log_det(x)
    assert torch.equal(y, x)
    assert not log_det.any()


def test_gamma_does_not_change_the_map() -> None:
    """Block time is [0, 1] whatever the step size."""
    field, x = make_velocity(2).requires_grad_(False), points(5, 2)
    assert torch.equal(
        NeuralODEBlock(field, gamma=0.1, steps=2).push(x),
        NeuralODEBlock(field, gamma=math.inf, steps=2).push(x),
    )


def test_steps_change_the_map_and_doubling_says_by_how_much() -> None:
    block = coarse_block(2)
    finer = NeuralODEBlock(block.velocity, gamma=1.0, steps=2 * block.steps)
    x = points(200, 2)
    gap = (block.push(x) - finer.push(x)).square().sum(dim=1).mean().sqrt()
    assert block.step_doubling_error(x) == pytest.approx(float(gap))
    assert block.step_doubling_error(x) > 0.003
    assert finer.step_doubling_error(x) < block.step_doubling_error(x) / 3


def test_doubling_error_falls_with_the_fourth_power() -> None:
    field = make_velocity(2, seed=2, frequency_scale=0.3).requires_grad_(False)
    x = points(50, 2)
    errors = [NeuralODEBlock(field, gamma=1.0, steps=steps).step_doubling_error(x) for steps in (16, 32)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.3)


def test_exact_flow_is_what_many_steps_tend_to() -> None:
    block, x = ode_block(), points(20, 3)
    many = NeuralODEBlock(block.velocity, gamma=block.gamma, steps=100)
    torch.testing.assert_close(block.exact_flow(x, tolerance=1e-8), many.push(x), atol=1e-5, rtol=0)
    assert float((block.exact_flow(x, tolerance=1e-8) - block.push(x)).abs().max()) > 1e-3


def test_jacobian_has_a_column_for_each_coordinate() -> None:
    block, x = ode_block(), points(4, 3)
    expected = torch.stack([torch.func.jacrev(lambda at: block.push(at[None])[0])(row) for row in x])
    torch.testing.assert_close(block.push_with_jacobian(x)[1], expected, atol=1e-10, rtol=0)


def test_coarse_block_is_inverted_as_the_discrete_map() -> None:
    """The exact flow's inverse is far off; the inverse that is returned is that of the discrete map."""
    block, y = coarse_block(2), points(300, 2)
    inverse = block.invert(y)
    assert float(inverse.error.max()) <= 1e-8
    assert float((block.push(inverse.x) - y).norm(dim=1).max()) <= 1e-8
    backward = NeuralODEBlock(block.velocity, gamma=1.0, steps=100)
    assert float((block.push(backward.pull(y)) - y).norm(dim=1).max()) > 1e-2


def test_broyden_steps_solve_a_linear_system_in_twice_its_dimension() -> None:
    """Gay (1979), SIAM J. Numer. Anal. 16: at most 2 d steps, whatever the Jacobian that they start from."""
    dim = 4
    matrix = torch.eye(dim, dtype=torch.float64) + 0.4 * torch.randn(
        dim, dim, generator=generator(1), dtype=torch.float64
    )
    goal, z = points(9, dim), torch.zeros(9, dim, dtype=torch.float64)
    steps: tuple[torch.Tensor, ...] = (goal - z @ matrix.T,)
    first = steps[0].norm(dim=1)
    for _ in range(2 * dim):
        z = z + steps[-1]
        residual = goal - z @ matrix.T
        steps = (*steps, broyden_step(residual, steps))
    assert bool((residual.norm(dim=1) < 1e-8 * first).all())


def test_an_inverse_of_a_coarse_block_takes_few_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """By corrections that learn nothing of each other, z + y - T(B(z)), and Newton's steps it is 24."""
    block, y = coarse_block(2), points(64, 2)
    taken: list[int] = []
    evaluate = block.velocity.forward
    monkeypatch.setattr(block.velocity, "forward", lambda *at: (taken.append(len(at[0])), evaluate(*at))[1])
    assert float(block.invert(y).error.max()) <= 1e-10
    round_trips = sum(taken) / len(y) / 8  # of four stages forward and four backward
    assert round_trips <= 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_inverse_does_not_depend_on_which_other_rows_need_work(dtype: torch.dtype) -> None:
    """To the last bit: of 300 rows the second half is replaced by ones near zero, which need other work."""
    block, y = coarse_block(2).to(dtype), points(300, 2).to(dtype)
    other = torch.cat([y[:150], 0.1 * y[150:]])
    some, rest = block.invert(y), block.invert(other)
    assert torch.equal(some.x[:150], rest.x[:150])
    assert torch.equal(some.error[:150], rest.error[:150])


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5, 1e-9])
def test_requested_tolerance_is_met(tolerance: float) -> None:
    inverse = coarse_block(2).invert(points(100, 2), tolerance=tolerance)
    assert float(inverse.error.max()) <= tolerance


def test_loose_tolerance_is_not_refined_further_than_asked() -> None:
    block, y = coarse_block(2), points(100, 2)
    assert float(block.invert(y, tolerance=1e-2).error.max()) > 1e-6


def test_row_that_misses_the_tolerance_is_returned_with_its_true_error() -> None:
    block, y = folding_block(), points(200, 2)
    inverse = block.invert(y, tolerance=1e-8)
    missed = inverse.error > 1e-8
    assert missed.any()
    assert not missed.all()
    measured = (block.push(inverse.x) - y).norm(dim=1)
    torch.testing.assert_close(inverse.error, measured, atol=1e-10, rtol=1e-8)


def test_a_bad_row_does_not_spoil_the_others() -> None:
    block, y = coarse_block(2), points(20, 2)
    alone = block.invert(y)
    folded = torch.cat([y, torch.full((1, 2), math.nan, dtype=torch.float64)])
    beside = block.invert(folded)
    torch.testing.assert_close(beside.x[:20], alone.x, atol=1e-8, rtol=0)
    assert not beside.error[20] <= 1e-8


def test_inverse_leaves_its_input_alone() -> None:
    block, y = coarse_block(2), points(20, 2)
    copy = y.clone()
    block.invert(y)
    assert torch.equal(y, copy)


def test_beyond_the_largest_dimension_the_trace_is_used() -> None:
    """d tangents up to 128; above, the exact trace, which here is within 1e-3 nats of the determinant."""
    for dim in (NeuralODEBlock.determinant_dim, NeuralODEBlock.determinant_dim + 1):
        field = make_velocity(dim, seed=1, strength=0.05, frequency_scale=0.02).requires_grad_(False)
        block = NeuralODEBlock(field, gamma=1.0, steps=2)
        x = points(3, dim)
        log_det = block.push_with_log_det(x)[1]
        traced = block.push_with_trace(x, None, exact_probes(x))[1]
        assert torch.equal(log_det, traced) == (dim > NeuralODEBlock.determinant_dim)
        torch.testing.assert_close(log_det, autodiff_log_det(block, x), atol=1e-3, rtol=0)


def test_training_sees_gradients_of_every_parameter() -> None:
    block = NeuralODEBlock(make_velocity(2, context_dim=1), gamma=1.0, steps=1)
    y, log_det = block.push_with_log_det(points(8, 2), points(8, 1))
    (y.square().sum() - log_det.sum()).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in block.parameters())


def test_gradient_of_the_log_determinant_is_right() -> None:
    """Against a central difference in one weight, the test's own."""
    block = NeuralODEBlock(make_velocity(2), gamma=1.0, steps=1)
    x, weight = points(8, 2), block.velocity.hidden[0].weight
    gradient = torch.autograd.grad(block.push_with_log_det(x)[1].sum(), weight)[0]
    direction = torch.randn(weight.shape, generator=generator(0), dtype=torch.float64)
    h = 1e-5
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * h * direction)
            ends.append(float(block.push_with_log_det(x)[1].sum()))
            weight.sub_(sign * h * direction)
    assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(float((gradient * direction).sum()), rel=1e-5)

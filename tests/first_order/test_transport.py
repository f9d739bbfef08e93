"""How far a map is from the optimal one: nothing for gradients of convex functions, much for turns."""

from __future__ import annotations

import math

import pytest
import torch

from jkoflow.blocks import AffineBlock
from jkoflow.first_order import (
    StepPairs,
    assignment,
    derivative_at,
    exact_residual,
    norm_of,
    pushed_score,
    transport_gap,
)
from jkoflow.laws import StandardNormal
from oracles.blocks import generator, make_block, points

GAMMA = 0.5


def rows(n: int, dim: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dim, generator=generator(seed), dtype=torch.float64)


def pairs(x: torch.Tensor, y: torch.Tensor, gamma: float = GAMMA) -> StepPairs:
    return StepPairs(x, y, gamma, StandardNormal(x.shape[1]))


def test_assignment_undoes_a_shuffle_of_shifted_rows():
    x = rows(200)
    shuffled = torch.randperm(200, generator=generator(1))
    assert torch.equal(assignment(x[shuffled] + 5, x), shuffled)


def test_assignment_in_one_dimension_sorts():
    x, y = rows(100, 1, 1), rows(100, 1, 2)
    found = assignment(y, x)
    assert torch.equal(x[found][y[:, 0].argsort()], x.sort(dim=0).values)


def test_gradient_of_a_convex_function_has_no_gap():
    x = rows(500, 3)
    assert transport_gap(pairs(x, x + torch.tanh(x) + x.square().sum(1, keepdim=True) * x)) == 0


def test_turn_by_pi_has_no_residual_and_makes_no_progress():
    """p_0 = N(0, I/(1 + 2/gamma)): xi' = 0 under x ↦ -x, and xi = -2y/gamma, all of it transport gap."""
    x = rows(400) / math.sqrt(1 + 2 / GAMMA)
    block = AffineBlock(dim=2, gamma=GAMMA, matrix=-torch.eye(2).double(), offset=torch.zeros(2).double())
    y, score = pushed_score(block, x, -(1 + 2 / GAMMA) * x)
    turned = pairs(x, y)
    assert norm_of(exact_residual(turned, score)).value == pytest.approx(0, abs=1e-12)
    expected = 2 / GAMMA * float(y.square().sum(dim=1).mean().sqrt())
    assert transport_gap(turned) == pytest.approx(expected, rel=0.15)
    derivative = derivative_at(block, x[:10])
    assert derivative.asymmetry == 0
    assert derivative.smallest == -1


def test_quarter_turn_is_antisymmetric():
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    block = AffineBlock(dim=2, gamma=GAMMA, matrix=turn, offset=torch.zeros(2).double())
    found = derivative_at(block, rows(5))
    assert (found.asymmetry, found.smallest, found.rows) == (pytest.approx(math.sqrt(2)), 0, 5)


def test_small_turn_that_pairs_do_not_see_is_seen_by_the_derivative():
    angle = 0.02
    turn = torch.tensor([[1.0, -angle], [angle, 1.0]], dtype=torch.float64)
    block = AffineBlock(dim=2, gamma=GAMMA, matrix=turn, offset=torch.zeros(2).double())
    x = rows(50)
    assert transport_gap(pairs(x, block.push(x))) == 0
    assert derivative_at(block, x).asymmetry == pytest.approx(angle * math.sqrt(2))


def test_derivative_of_a_block_is_measured_at_its_rows():
    block, x = make_block("neural_ode"), points(6, 3)
    found = derivative_at(block, x)
    jacobian = torch.stack([torch.autograd.functional.jacobian(block.push, row[None])[0, :, 0] for row in x])
    odd = (jacobian - jacobian.mT) / 2
    assert found.asymmetry == pytest.approx(float(odd.square().sum((1, 2)).mean().sqrt()))
    assert found.smallest == pytest.approx(float(torch.linalg.eigvalsh((jacobian + jacobian.mT) / 2).min()))


def test_free_step_has_no_gap():
    x = rows(20)
    assert transport_gap(pairs(x, -x, math.inf)) == 0

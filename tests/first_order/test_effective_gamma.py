"""The step size that a block comes nearest to, against the closed forms of normal laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from jkoflow.blocks import AffineBlock
from jkoflow.exact.gaussian import GaussianState, Quadratic, jko_step, transport_map
from jkoflow.first_order import effective_gamma, least_squares_gamma, ou_gammas
from jkoflow.laws import Gaussian, Law, StandardNormal
from jkoflow.particles import Particles

MEAN, WIDTHS = torch.tensor([1.5, -0.4]).double(), torch.tensor([0.3, 1.6]).double()


def rows(n: int = 8000) -> Particles:
    """Draws of N(m, diag s^2) with exactly its moments."""
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x - x.mean(dim=0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / n)).T
    return Particles(MEAN + x * WIDTHS)


def diagonal_block(scale: torch.Tensor, offset: torch.Tensor) -> AffineBlock:
    return AffineBlock(dim=2, matrix=torch.diag(scale), offset=offset)


def ou_block(gamma: float) -> AffineBlock:
    """The OU path's map of a normal law to tan^2 theta = gamma: s' = sqrt((s^2 + gamma)/(1 + gamma))."""
    after = ((WIDTHS**2 + gamma) / (1 + gamma)).sqrt()
    return diagonal_block(after / WIDTHS, MEAN / math.sqrt(1 + gamma) - after / WIDTHS * MEAN)


def residual(gamma: float, g: float) -> float:
    """‖∇V + ∇log p_n + (id - T^{-1})/g‖ of `ou_block`, in closed form."""
    mean, after = MEAN / math.sqrt(1 + gamma), ((WIDTHS**2 + gamma) / (1 + gamma)).sqrt()
    shift = mean + (mean - MEAN) / g
    slope = 1 - 1 / after**2 + (1 - WIDTHS / after) / g
    return float((shift.square() + (slope * after).square()).sum().sqrt())


@pytest.mark.parametrize("gamma", [0.0025, 0.05, 1.0])
def test_residual_of_a_started_block_is_least_at_its_effective_step_size(gamma: float) -> None:
    found = effective_gamma(ou_block(gamma), rows(), StandardNormal(2), gamma)
    least, most = ou_gammas(gamma)
    assert least <= found <= most
    assert residual(gamma, found) < residual(gamma, gamma)
    for factor in (0.99, 1.01):
        assert residual(gamma, found) < residual(gamma, factor * found)


@pytest.mark.parametrize(("gamma", "share"), [(0.0025, 0.5), (0.05, 0.49), (1.0, 0.41)])
def test_nominal_size_leaves_half_of_the_gradient_of_a_shift(gamma: float, share: float) -> None:
    """Of N(m, I) the path is the proximal step of size sqrt(1 + gamma) - 1 exactly."""
    x = Particles(rows().x / WIDTHS)
    block = diagonal_block(torch.ones(2).double(), -(1 - 1 / math.sqrt(1 + gamma)) * x.x.mean(dim=0))
    assert least_squares_gamma(block, x, StandardNormal(2)) == pytest.approx(math.sqrt(1 + gamma) - 1)
    mean = x.x.mean(dim=0)
    after = mean / math.sqrt(1 + gamma)
    left = (after + (after - mean) / gamma).norm() / mean.norm()
    assert float(left) == pytest.approx(share, abs=0.006)


@pytest.mark.parametrize("gamma", [0.0025, 0.3, 2.0])
@pytest.mark.parametrize("law", [StandardNormal(2), Gaussian([0.5, -1.0], [[2.0, 0.0], [0.0, 0.5]])])
def test_exact_step_has_its_own_size(gamma: float, law: Law) -> None:
    """xi' = 0 at gamma, for any quadratic potential."""
    potential = (
        Quadratic.standard(2)
        if isinstance(law, StandardNormal)
        else Quadratic(np.diag([0.5, 2.0]), np.array([0.5, -1.0]))
    )
    before = GaussianState(MEAN.numpy(), np.diag(WIDTHS.numpy() ** 2))
    step = transport_map(before, jko_step(before, gamma, potential))
    matrix = torch.tensor(step.matrix)
    block = AffineBlock(dim=2, matrix=matrix, offset=torch.tensor(step.target - step.matrix @ step.source))
    assert least_squares_gamma(block, rows(), law, tangents=10**6) == pytest.approx(gamma, rel=1e-6)


def test_free_step_stays_free_and_a_block_at_rest_keeps_its_name() -> None:
    still = diagonal_block(torch.ones(2).double(), torch.zeros(2).double())
    assert math.isinf(effective_gamma(still, rows(100), StandardNormal(2), math.inf))
    assert effective_gamma(still, rows(100), StandardNormal(2), 0.3) == 0.3


def test_named_block_is_the_same_map() -> None:
    block = ou_block(0.5)
    named = block.as_step_of(0.2)
    assert (block.gamma, named.gamma) == (math.inf, 0.2)
    x = rows(10).x
    assert torch.equal(named.push(x), block.push(x))

"""Exact log-likelihoods: they integrate to one, whatever the discretisation, and are deterministic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from jkoflow.blocks import AffineBlock
from jkoflow.blocks.ode.trace import exact_probes
from jkoflow.flow import Flow
from jkoflow.flow.likelihood import log_prob, standard_error
from jkoflow.laws import Gaussian, StandardNormal
from oracles.blocks import coarse_block, make_block, points

HALF_WIDTH, GRID = 10.0, {1: 4001, 2: 201}


def grid(dim: int) -> tuple[Tensor, float]:
    """Points of a regular grid on [-10, 10]^d and the volume that each stands for."""
    axis = torch.linspace(-HALF_WIDTH, HALF_WIDTH, GRID[dim], dtype=torch.float64)
    x = axis[:, None] if dim == 1 else torch.cartesian_prod(axis, axis)
    return x, (2 * HALF_WIDTH / (GRID[dim] - 1)) ** dim


@pytest.mark.parametrize("dim", [1, 2])
def test_density_of_a_coarse_block_integrates_to_one(dim: int) -> None:
    """One Runge-Kutta step of a strong field: one to one, far from the flow, and yet an exact density.

    The trace form of the same block is off by more than 0.01 nats, and its "density" is none.
    """
    block = coarse_block(dim)
    flow = Flow(StandardNormal(dim), [block])
    x, volume = grid(dim)
    y, jacobian = block.push_with_jacobian(x)
    assert float(torch.linalg.det(jacobian).min()) > 0.05
    density = log_prob(flow, x)
    assert float(density.exp().sum()) * volume == pytest.approx(1, abs=1e-4)
    trace = block.push_with_trace(x, None, exact_probes(x))[1]
    log_det = torch.linalg.slogdet(jacobian)[1]
    near = x.norm(dim=1) < 3
    assert float((trace - log_det)[near].abs().max()) > 1e-2
    wrong = flow.law.log_prob(y) + trace
    assert abs(float(wrong.exp().sum()) * volume - 1) > 1e-2


@pytest.mark.parametrize("dim", [1, 2])
def test_density_of_several_blocks_integrates_to_one(dim: int) -> None:
    flow = Flow(StandardNormal(dim), [make_block("neural_ode_taper", dim=dim), coarse_block(dim)])
    x, volume = grid(dim)
    total = float(log_prob(flow, x).exp().sum()) * volume
    assert total == pytest.approx(1, abs=1e-4)


def test_coarse_block_covers_the_line_once() -> None:
    """In one dimension a positive derivative is enough; the ends go to the ends."""
    x, _ = grid(1)
    y = coarse_block(1).push(x)[:, 0]
    assert torch.all(y.diff() > 0)
    assert float(y[0]) < -6
    assert float(y[-1]) > 6


def test_affine_flow_has_the_gaussian_density() -> None:
    mean = torch.tensor([1.0, -1.0], dtype=torch.float64)
    covariance = torch.tensor([[2.0, 0.3], [0.3, 0.4]], dtype=torch.float64)
    flow = Flow(StandardNormal(2), [AffineBlock.whitening(mean, covariance)])
    x = points(10, 2)
    expected = torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)
    torch.testing.assert_close(log_prob(flow, x), expected, atol=1e-10, rtol=0)


def test_density_in_the_tail_is_that_of_the_base_law() -> None:
    """Where the taper has closed the map is the identity."""
    block = make_block("neural_ode_taper", dim=2)
    far = torch.tensor([[30.0, 0.0], [-20.0, 40.0]], dtype=torch.float64)
    flow = Flow(StandardNormal(2), [block])
    assert torch.equal(log_prob(flow, far), StandardNormal(2).log_prob(far))


def test_log_prob_is_deterministic_and_in_double_precision() -> None:
    flow = Flow(StandardNormal(2), [make_block("neural_ode", torch.float32, 2)])
    x = points(50, 2, torch.float32)
    first = log_prob(flow, x)
    torch.manual_seed(1)
    assert torch.equal(log_prob(flow, x), first)
    assert first.dtype == torch.float64
    assert not first.requires_grad


def test_a_last_block_in_closed_form_gives_the_same_number() -> None:
    """log N(T(x)) + log|det dT(x)| of the whole map, and log p before the last block."""
    flow = Flow(StandardNormal(3), [make_block(name) for name in ("neural_ode_steps", "mixture")])
    x = points(30, 3)
    latent, log_det = flow.push_with_log_det(x)
    torch.testing.assert_close(log_prob(flow, x), flow.law.log_prob(latent) + log_det)


def test_a_base_that_is_not_normal_has_no_closed_form() -> None:
    base = Gaussian(torch.ones(2, dtype=torch.float64), 2 * torch.eye(2, dtype=torch.float64))
    flow, x = Flow(base, [make_block("mixture", dim=2)]), points(30, 2)
    latent, log_det = flow.push_with_log_det(x)
    torch.testing.assert_close(log_prob(flow, x), base.log_prob(latent) + log_det)


def test_with_the_law_at_the_start_rows_are_those_of_the_target() -> None:
    """q at the start and T to the target: the same map as T^-1 from the target to q at the end."""
    blocks = [make_block("affine", dim=2), make_block("neural_ode", dim=2)]
    flow, x = Flow(StandardNormal(2), blocks, law_at="start"), points(30, 2)
    y, log_det = flow.push_with_log_det(x)
    torch.testing.assert_close(log_prob(flow, y), flow.law.log_prob(x) - log_det, atol=1e-8, rtol=0)
    assert flow.then(make_block("affine", dim=2)).law_at == flow.truncated(1).law_at == "start"


def test_float32_agrees_with_float64() -> None:
    x = points(50, 2)
    values = [
        log_prob(Flow(StandardNormal(2), [make_block("neural_ode", dtype, 2)]), x.to(dtype))
        for dtype in (torch.float32, torch.float64)
    ]
    torch.testing.assert_close(values[0], values[1], atol=1e-3, rtol=0)


def test_mean_log_prob_of_own_samples_is_minus_the_entropy() -> None:
    """E_q0[-log q0] = H(q) + E[log|det dS|], S the inverse: the two sides by different routes."""
    block = make_block("neural_ode", dim=2)
    flow = Flow(StandardNormal(2), [block])
    z = points(4000, 2, seed=1)
    z = (z - 0.3) / 1.2
    x = flow.pull(z)
    left = log_prob(flow, x)
    right = -0.5 * z.square().sum(dim=1) - math.log(2 * math.pi) + flow.log_det(x)
    np.testing.assert_allclose(left, right, atol=1e-8)


def test_standard_error_of_the_mean() -> None:
    nats = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64)
    assert standard_error(nats) == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3 / 4))
    assert math.isnan(standard_error(nats[:1]))

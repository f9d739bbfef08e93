"""The affine block: the closed-form free step of Gaussian particles."""

from __future__ import annotations

import numpy as np
import torch

from jkoflow.blocks import AffineBlock
from jkoflow.exact.gaussian import GaussianState, transport_map
from oracles.blocks import generator, points


def covariance(dim: int) -> torch.Tensor:
    root = torch.randn(dim, dim, generator=generator(1), dtype=torch.float64)
    return root @ root.T + 0.1 * torch.eye(dim, dtype=torch.float64)


def test_whitening_is_the_optimal_transport_to_the_standard_normal_law() -> None:
    mean, sigma = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), covariance(3)
    block = AffineBlock.whitening(mean, sigma)
    assert block.free
    torch.testing.assert_close(
        block.matrix @ sigma @ block.matrix.T, torch.eye(3, dtype=torch.float64), atol=1e-10, rtol=0
    )
    torch.testing.assert_close(block.matrix, block.matrix.T)
    oracle = transport_map(GaussianState(mean.numpy(), sigma.numpy()), GaussianState(np.zeros(3), np.eye(3)))
    x = points(10, 3)
    torch.testing.assert_close(block.push(x), torch.as_tensor(oracle(x.numpy())), atol=1e-10, rtol=0)
    torch.testing.assert_close(
        block.push_with_log_det(x)[1], torch.full((10,), oracle.log_det, dtype=torch.float64)
    )


def test_whitened_particles_have_mean_zero_and_covariance_identity() -> None:
    x = points(500, 2) @ covariance(2) + 3
    y = AffineBlock.whitening(x.mean(dim=0), torch.cov(x.T)).push(x)
    torch.testing.assert_close(y.mean(dim=0), torch.zeros(2, dtype=torch.float64), atol=1e-10, rtol=0)
    torch.testing.assert_close(torch.cov(y.T), torch.eye(2, dtype=torch.float64), atol=1e-10, rtol=0)


def test_inverse_of_an_ill_conditioned_map_is_refined() -> None:
    sigma = torch.diag(torch.tensor([1e-6, 1.0, 1e6], dtype=torch.float64))
    block = AffineBlock.whitening(torch.ones(3, dtype=torch.float64), sigma)
    inverse = block.invert(points(20, 3))
    assert float(inverse.error.max()) < 1e-10


def test_error_of_the_inverse_is_measured() -> None:
    block = AffineBlock(dim=2, matrix=torch.tensor([[1.0, 0.3], [0.3, 0.9]]), offset=torch.full((2,), 1e4))
    y = points(50, 2, torch.float32)
    inverse = block.invert(y)
    assert torch.equal(inverse.error, (block.push(inverse.x) - y).norm(dim=1))
    assert float(inverse.error.max()) > 0

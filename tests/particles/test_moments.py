"""Mean and covariances by chunks against those of all rows at once: numpy's, and scikit-learn's shrinkage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.covariance import ledoit_wolf

from jkoflow.particles import Moments, Particles
from oracles.blocks import generator, points


def rows(n: int, dim: int = 4) -> torch.Tensor:
    """Correlated, far from zero, and heavier at one end."""
    return (
        points(n, dim) @ (points(dim, dim, seed=3) + torch.eye(dim)) + 0.2 * points(n, dim, seed=5) ** 2 + 3
    )


@pytest.fixture(params=[None, 7, 50])
def moments_of(request: pytest.FixtureRequest) -> Callable[..., Moments]:
    """`Moments.of` tensors, all rows at once or in chunks of so many."""
    chunks = {} if request.param is None else {"whole_numbers": 0, "chunk_rows": request.param}
    return lambda *parts, **rest: Moments.of(*(Particles(part, **rest) for part in parts), **chunks)


@pytest.mark.parametrize("n", [3, 30, 1000])
def test_moments_are_those_of_all_rows_at_once(n: int, moments_of: Callable[..., Moments]) -> None:
    """3 rows in 4 columns and 1,000: from shrunk almost to a ball to almost not at all."""
    x = rows(n)
    found, expected = moments_of(x), x.numpy()
    assert_allclose(found.mean, expected.mean(axis=0), rtol=1e-12)
    assert_allclose(found.covariance, np.cov(expected.T, bias=True), rtol=1e-10, atol=1e-12)
    assert_allclose(found.shrunk, ledoit_wolf(expected)[0], rtol=1e-10, atol=1e-12)


def test_parts_count_as_one_and_single_precision_is_raised(moments_of: Callable[..., Moments]) -> None:
    x = rows(90).float()
    whole, parts = moments_of(x), moments_of(x[:13], x[13:])
    assert whole.shrunk.dtype == torch.float64
    torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.shrunk, whole.shrunk, rtol=1e-12, atol=1e-14)


def test_one_column(moments_of: Callable[..., Moments]) -> None:
    x = rows(40, 1)
    assert moments_of(x).covariance.shape == (1, 1)
    assert_allclose(moments_of(x).shrunk, ledoit_wolf(x.numpy())[0], rtol=1e-10)


def test_a_row_counts_as_often_as_its_weight_says(moments_of: Callable[..., Moments]) -> None:
    """Whole weights are copies, but for the shrinkage, whose n is the effective number of rows."""
    x, weight = rows(200), torch.randint(0, 4, (200,), generator=generator(1))
    weighted = moments_of(x, weight=weight.double())
    copied = moments_of(x.repeat_interleave(weight, 0))
    torch.testing.assert_close(weighted.mean, copied.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(weighted.covariance, copied.covariance, rtol=1e-10, atol=1e-12)
    alike = moments_of(x, weight=torch.full((200,), 2.5, dtype=torch.float64))
    torch.testing.assert_close(alike.shrunk, moments_of(x).shrunk, rtol=1e-10, atol=1e-12)

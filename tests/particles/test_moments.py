"""Mean and covariances by chunks against those of all rows at once: numpy's, and scikit-learn's shrinkage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.covariance import ledoit_wolf

from jkoflow.particles import moments
from jkoflow.particles.moments import Moments
from oracles.blocks import points


def rows(n: int, dim: int = 4) -> torch.Tensor:
    """Correlated, far from zero, and heavier at one end."""
    return (
        points(n, dim) @ (points(dim, dim, seed=3) + torch.eye(dim)) + 0.2 * points(n, dim, seed=5) ** 2 + 3
    )


@pytest.fixture(params=[None, 7, 50])
def _chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param is not None:
        monkeypatch.setattr(moments, "_WHOLE_NUMBERS", 0)
        monkeypatch.setattr(moments, "CHUNK_ROWS", request.param)


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("n", [3, 30, 1000])
def test_moments_are_those_of_all_rows_at_once(n: int) -> None:
    """3 rows in 4 columns and 1,000: from shrunk almost to a ball to almost not at all."""
    x = rows(n)
    found, expected = Moments.of(x), x.numpy()
    assert_allclose(found.mean, expected.mean(axis=0), rtol=1e-12)
    assert_allclose(found.covariance, np.cov(expected.T, bias=True), rtol=1e-10, atol=1e-12)
    assert_allclose(found.shrunk, ledoit_wolf(expected)[0], rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("_chunk")
def test_parts_count_as_one_and_single_precision_is_raised() -> None:
    x = rows(90).float()
    whole, parts = Moments.of(x), Moments.of(x[:13], x[13:])
    assert whole.shrunk.dtype == torch.float64
    torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.shrunk, whole.shrunk, rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("_chunk")
def test_one_column() -> None:
    x = rows(40, 1)
    assert Moments.of(x).covariance.shape == (1, 1)
    assert_allclose(Moments.of(x).shrunk, ledoit_wolf(x.numpy())[0], rtol=1e-10)

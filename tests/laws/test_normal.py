"""The standard normal law against SciPy."""

from __future__ import annotations

import pytest
import scipy.stats
import torch

from jkoflow.errors import InputError
from jkoflow.laws import StandardNormal


@pytest.mark.parametrize("dim", [1, 2, 10])
def test_log_prob_and_entropy(dim: int) -> None:
    x = torch.randn(20, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    law, known = StandardNormal(dim), scipy.stats.multivariate_normal([0.0] * dim)
    torch.testing.assert_close(law.log_prob(x), torch.as_tensor(known.logpdf(x.numpy())))
    assert law.entropy(2, torch.Generator()) == (pytest.approx(known.entropy()), 0.0)


def test_is_a_plain_value() -> None:
    assert StandardNormal(2) == StandardNormal(2) != StandardNormal(3)


def test_refuses_no_dimension() -> None:
    with pytest.raises(InputError, match="dim: expected at least 1, got 0"):
        StandardNormal(0)

"""Gaussian laws against SciPy and the definition of their potential."""

from __future__ import annotations

import pytest
import scipy.stats
import torch

from jkoflow.errors import InputError
from jkoflow.laws import Gaussian

MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[2.0, 0.6, 0.1], [0.6, 1.0, -0.3], [0.1, -0.3, 0.5]], dtype=torch.float64)


def test_log_prob_and_entropy() -> None:
    law = Gaussian(MEAN, COVARIANCE)
    known = scipy.stats.multivariate_normal(MEAN.numpy(), COVARIANCE.numpy())
    x = law.sample(20, torch.Generator().manual_seed(0))
    torch.testing.assert_close(law.log_prob(x), torch.as_tensor(known.logpdf(x.numpy())))
    assert law.entropy(2, torch.Generator()) == (pytest.approx(known.entropy()), 0.0)


def test_potential_is_the_quadratic_form() -> None:
    x = torch.randn(10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    by_hand = 0.5 * ((x - MEAN) @ torch.linalg.inv(COVARIANCE) * (x - MEAN)).sum(-1)
    torch.testing.assert_close(Gaussian(MEAN, COVARIANCE).potential(x), by_hand)


def test_samples_have_the_moments() -> None:
    x = Gaussian(MEAN, COVARIANCE).sample(100_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(x.mean(0), MEAN, atol=0.02, rtol=0)
    torch.testing.assert_close(x.T.cov(), COVARIANCE, atol=0.03, rtol=0)


def test_later_changes_of_the_arguments_do_not_reach_the_law() -> None:
    mean = MEAN.clone()
    law = Gaussian(mean, COVARIANCE)
    mean += 1
    torch.testing.assert_close(law.mean, MEAN)


@pytest.mark.parametrize(
    ("mean", "covariance", "message"),
    [
        ([0.0, 0.0], [[1.0]], r"got \(2,\) and \(1, 1\)"),
        ([float("nan")], [[1.0]], "finite"),
        ([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]], "symmetric"),
        ([0.0, 0.0], [[1.0, float("nan")], [float("nan"), 1.0]], "symmetric"),
        ([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]], "positive definite"),
    ],
)
def test_refused_by_name(mean: list[float], covariance: list[list[float]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Gaussian(mean, covariance)

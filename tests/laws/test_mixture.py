"""Mixtures against SciPy, and the two ways of saying the same round components."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from jkoflow.errors import InputError
from jkoflow.laws import GaussianMixture, StandardNormal

WEIGHTS = [1.0, 2.0, 5.0]
MEANS = [[0.0, 0.0, 1.0], [2.0, 1.0, 0.0], [-3.0, 0.5, 0.5]]
COVARIANCE = [[2.0, 0.6, 0.1], [0.6, 1.0, -0.3], [0.1, -0.3, 0.5]]


def known_log_prob(x: np.ndarray, covariances: list[np.ndarray]) -> torch.Tensor:
    density = sum(
        w / 8 * scipy.stats.multivariate_normal(m, c).pdf(x)
        for w, m, c in zip(WEIGHTS, MEANS, covariances, strict=True)
    )
    return torch.as_tensor(np.log(density))


def test_full_components() -> None:
    covariances = [np.array(COVARIANCE), np.eye(3), 0.3 * np.eye(3)]
    law = GaussianMixture(WEIGHTS, MEANS, covariances=torch.as_tensor(np.stack(covariances)))
    x = law.sample(50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(law.log_prob(x), known_log_prob(x.numpy(), covariances))


def test_round_components() -> None:
    stds = [0.5, 1.0, 2.0]
    law = GaussianMixture(WEIGHTS, MEANS, stds=stds)
    x = law.sample(50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(law.log_prob(x), known_log_prob(x.numpy(), [s**2 * np.eye(3) for s in stds]))


def test_full_and_round_components_draw_the_same_rows() -> None:
    stds = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    covariances = stds.square()[:, None, None] * torch.eye(3, dtype=torch.float64)
    draws = [
        GaussianMixture(WEIGHTS, MEANS, **width).sample(20, torch.Generator().manual_seed(0))
        for width in ({"stds": stds}, {"covariances": covariances})
    ]
    torch.testing.assert_close(*draws)


def test_samples_have_the_moments() -> None:
    covariances = torch.tensor([COVARIANCE] * 3, dtype=torch.float64)
    law = GaussianMixture(WEIGHTS, MEANS, covariances=covariances)
    x = law.sample(200_000, torch.Generator().manual_seed(0))
    weights, means = torch.tensor(WEIGHTS, dtype=torch.float64) / 8, torch.tensor(MEANS, dtype=torch.float64)
    mean = weights @ means
    between = (means - mean).T @ (weights[:, None] * (means - mean))
    torch.testing.assert_close(x.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(x.T.cov(), between + covariances[0], atol=0.05, rtol=0)


def test_one_component_is_a_normal_law() -> None:
    x = StandardNormal(3).sample(20, torch.Generator().manual_seed(0))
    law = GaussianMixture([4.0], [[0.0, 0.0, 0.0]], stds=[1.0])
    torch.testing.assert_close(law.log_prob(x), StandardNormal(3).log_prob(x))


def test_far_away_it_is_finite() -> None:
    law = GaussianMixture([1.0, 1.0], [[0.0], [1.0]], stds=[0.1, 0.1])
    x = torch.tensor([[1e4]], dtype=torch.float64, requires_grad=True)
    law.log_prob(x).sum().backward()
    assert x.grad is not None
    assert x.grad.item() == pytest.approx(-(1e4 - 1) / 0.01)


class FewRowsAtATime(GaussianMixture):
    scored_numbers = 9 * 7


def test_chunks_do_not_change_the_answer() -> None:
    law, small = (kind(WEIGHTS, MEANS, stds=[0.5, 1.0, 2.0]) for kind in (GaussianMixture, FewRowsAtATime))
    x = law.sample(50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(small.log_prob(x), law.log_prob(x), rtol=1e-13, atol=0)


def test_mixture_of_moments_is_the_same_law() -> None:
    law = GaussianMixture(WEIGHTS, MEANS, stds=[0.5, 1.0, 2.0])
    full = GaussianMixture.of_moments(law.weights, law.means, law.full_covariances)
    assert law.full_covariances.shape == (3, law.dim, law.dim)
    x = law.sample(50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(full.log_prob(x), law.log_prob(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one"),
        ({"stds": [1.0], "covariances": [[[1.0]]]}, "exactly one"),
        ({"weights": [-1.0], "stds": [1.0]}, "weights: expected finite positive"),
        ({"weights": [math.nan], "stds": [1.0]}, "weights: expected finite positive"),
        ({"means": [[0.0], [1.0]], "stds": [1.0]}, r"means: expected .* \(1, d\), got shape \(2, 1\)"),
        ({"stds": [1.0, 1.0]}, r"expected shape \(1,\), got \(2,\)"),
        ({"stds": [0.0]}, "stds: expected finite positive"),
        ({"covariances": [[[1.0, 0.0], [0.0, 1.0]]]}, r"expected shape \(1, 1, 1\), got \(1, 2, 2\)"),
        ({"covariances": [[[-1.0]]]}, "covariances: expected a positive definite"),
    ],
)
def test_refused_by_name(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GaussianMixture(**{"weights": [1.0], "means": [[0.0]], **arguments})

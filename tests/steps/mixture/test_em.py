"""EM by products of sufficient statistics, against scikit-learn's, closed forms and the law it came from."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from jkoflow.laws import GaussianMixture as Mixture
from jkoflow.steps.mixture import EMRules, maximise_likelihood
from jkoflow.world import ALONE, World
from oracles.blocks import generator, points
from oracles.worlds import run_together

FLOOR = 1e-6


def em(
    x: Tensor, start: Tensor, *, tolerance: float, most_iterations: int, floor: float, **more: Any
) -> tuple[Mixture, Tensor]:
    return maximise_likelihood(x, start, EMRules(tolerance, most_iterations, floor), **more)


def rows_and_start(n: int, p: int, k: int) -> tuple[Tensor, Tensor]:
    x = points(n, p)
    x[:, 0] = x[:, 0] + x[:, -1] ** 2
    start = torch.rand(n, k, generator=generator(2), dtype=torch.float64) + torch.eye(k).repeat(n, 1)[:n]
    return x / x.std(dim=0), start / start.sum(dim=1, keepdim=True)


def log_density(mixture: Mixture, x: Tensor) -> Tensor:
    """Of each row, by torch's own multivariate normal law."""
    law = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(mixture.weights),
        torch.distributions.MultivariateNormal(mixture.means, mixture.full_covariances),
    )
    density: Tensor = law.log_prob(x)
    return density


def by_scikit_learn(x: Tensor, start: Tensor, iterations: int) -> GaussianMixture:
    """The same start, given by its moments, and as many iterations."""
    first, _ = em(x, start, tolerance=0, most_iterations=0, floor=FLOOR)
    reference = GaussianMixture(
        start.shape[1],
        max_iter=iterations,
        tol=0,
        reg_covar=FLOOR,
        weights_init=first.weights.numpy(),
        means_init=first.means.numpy(),
        precisions_init=np.linalg.inv(first.full_covariances.numpy()),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        reference.fit(x.numpy())
    return reference


@pytest.mark.parametrize(("n", "p", "k"), [(300, 1, 2), (500, 3, 4), (400, 7, 3), (50, 2, 1)])
@pytest.mark.parametrize("kept", [True, False])
def test_iterations_are_those_of_scikit_learn(n: int, p: int, k: int, *, kept: bool) -> None:
    """In several chunks of rows, with their statistics kept and computed again."""
    sizes = {"chunk_numbers": 37 * max(k, 1 + p + p * (p + 1) // 2), "kept_numbers": 10**9 if kept else 0}
    x, start = rows_and_start(n, p, k)
    mixture, found = em(x, start, tolerance=0, most_iterations=7, floor=FLOOR, **sizes)
    reference = by_scikit_learn(x, start, 7)
    np.testing.assert_allclose(mixture.weights.numpy(), reference.weights_, atol=1e-6)
    np.testing.assert_allclose(mixture.means.numpy(), reference.means_, atol=1e-6)
    np.testing.assert_allclose(mixture.full_covariances.numpy(), reference.covariances_, atol=1e-6)
    np.testing.assert_allclose(found.numpy(), reference.predict_proba(x.numpy()), atol=1e-5)


@pytest.mark.parametrize("chunk_numbers", [2**18, 64])
def test_whole_weights_are_copies_and_rows_of_weight_zero_are_not_there(chunk_numbers: int) -> None:
    x, start = rows_and_start(300, 2, 3)
    weight = torch.randint(0, 4, (300,), generator=generator(3))
    options = {"tolerance": 0, "most_iterations": 9, "floor": FLOOR}
    weighted, _ = em(x, start, weight=weight.double(), chunk_numbers=chunk_numbers, **options)
    copied, _ = em(x.repeat_interleave(weight, 0), start.repeat_interleave(weight, 0), **options)
    for name in ("weights", "means", "full_covariances"):
        torch.testing.assert_close(getattr(weighted, name), getattr(copied, name), atol=1e-9, rtol=0)


def test_density_of_what_is_found_is_the_laws_own() -> None:
    x, start = rows_and_start(200, 4, 3)
    mixture, _ = em(x, start, tolerance=0, most_iterations=3, floor=FLOOR)
    torch.testing.assert_close(mixture.log_prob(x), log_density(mixture, x), atol=1e-9, rtol=1e-9)


def test_one_component_is_the_moments() -> None:
    x, _ = rows_and_start(200, 3, 1)
    mixture, found = em(x, torch.ones(200, 1), tolerance=1e-3, most_iterations=9, floor=FLOOR)
    torch.testing.assert_close(mixture.means[0], x.mean(dim=0), atol=1e-7, rtol=0)
    expected = x.T.cov(correction=0) + FLOOR * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(mixture.full_covariances[0], expected, atol=1e-7, rtol=0)
    assert torch.equal(found, torch.ones(200, 1))


def test_likelihood_rises_with_every_iteration() -> None:
    x, start = rows_and_start(400, 2, 4)
    values = []
    for iterations in range(12):
        mixture, _ = em(x, start, tolerance=0, most_iterations=iterations, floor=0.0)
        values.append(float(log_density(mixture, x).mean()))
    assert np.all(np.diff(values) > 0)


def test_tolerance_ends_it() -> None:
    x, start = rows_and_start(400, 2, 4)
    coarse, _ = em(x, start, tolerance=1e-2, most_iterations=500, floor=FLOOR)
    fine, _ = em(x, start, tolerance=1e-7, most_iterations=500, floor=FLOOR)
    gain = float((log_density(fine, x) - log_density(coarse, x)).mean())
    assert 0 < gain < 0.2


def test_a_start_of_the_first_rows_is_enough() -> None:
    x, _ = rows_and_start(3000, 2, 1)
    x[::2] += 8
    start = torch.nn.functional.one_hot((x[:500, 0] > 4).long(), 2)
    mixture, found = em(x, start, tolerance=1e-4, most_iterations=50, floor=FLOOR)
    assert found.shape == (3000, 2)
    torch.testing.assert_close(mixture.weights, torch.full((2,), 0.5, dtype=torch.float64), atol=0.02, rtol=0)


def test_a_narrow_component_far_out_is_resolved() -> None:
    """Standard deviation 2e-3 at a distance of 30: terms of 2e8 cancel."""
    x = points(2000, 3)
    x[:1000] = 30 + 2e-3 * x[:1000]
    start = torch.eye(2).repeat_interleave(1000, dim=0)
    mixture, _ = em(x, start, tolerance=1e-6, most_iterations=50, floor=0.0)
    spread = mixture.full_covariances[0].diagonal().sqrt()
    torch.testing.assert_close(spread, x[:1000].std(dim=0, correction=0), rtol=1e-3, atol=0)


def test_a_component_without_rows_is_no_obstacle() -> None:
    x, _ = rows_and_start(300, 2, 1)
    start = torch.cat([torch.ones(300, 1), torch.zeros(300, 1)], dim=1)
    mixture, _ = em(x, start, tolerance=1e-4, most_iterations=20, floor=FLOOR)
    assert torch.isfinite(mixture.full_covariances).all()
    assert float(mixture.weights[1]) < 1e-6


def test_a_component_of_no_width_is_refused() -> None:
    x = torch.zeros(100, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="positive definite"):
        em(x, torch.ones(100, 1), tolerance=1e-4, most_iterations=5, floor=0.0)


@pytest.mark.parametrize("weighted", [False, True])
def test_processes_that_divide_the_chunks_find_the_same_mixture_bit_for_bit(weighted: bool) -> None:
    x, start = points(501, 3), torch.rand(501, 4, generator=generator(1), dtype=torch.float64)
    weight = torch.rand(501, generator=generator(3), dtype=torch.float64) if weighted else None

    def mixture(world: World) -> torch.Tensor:
        rules = EMRules(tolerance=0.0, iterations=4)
        law, found = maximise_likelihood(x, start, rules, weight=weight, world=world, chunk_numbers=1000)
        return torch.cat([law.weights, law.means.flatten(), law.full_covariances.flatten(), found.flatten()])

    alone = mixture(ALONE)
    assert all(torch.equal(found, alone) for size in (2, 3) for found in run_together(size, mixture))

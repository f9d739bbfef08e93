"""The race's validated mixture: its steps are scikit-learn's, its shrinkage a formula, its budget kept."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from race_modules import imported


@pytest.fixture(scope="module")
def race() -> Iterator[dict[str, ModuleType]]:
    with imported(("density", "timed_descent", "gaussian_em", "contenders")) as modules:
        yield modules


def three_clusters(n: int, dim: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(3, dim)) * 2
    return centres[rng.integers(3, size=n)] + rng.normal(size=(n, dim)) @ np.diag(rng.uniform(0.2, 1, dim))


def stepped(em: ModuleType, rows: np.ndarray, setting: object) -> tuple[object, object]:
    start = em.maximised(em.clusters(em.Rows(rows), setting.components, 0), setting)
    return start, em.maximised(em.expected(em.Rows(rows), start), setting)


@pytest.mark.parametrize("dim", [3, 30])  # by products of columns, and by the rows of each component
def test_a_step_is_scikit_learns(race: dict[str, ModuleType], dim: int) -> None:
    em, rows = race["gaussian_em"], three_clusters(1000, dim)
    start, after = stepped(em, rows, em.Setting(3, 1e-4, 0.0))
    theirs = GaussianMixture(
        3,
        reg_covar=1e-4,
        max_iter=1,
        weights_init=start.weights.numpy(),
        means_init=start.means.numpy(),
        precisions_init=np.linalg.inv(start.covariances.numpy()),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs.fit(rows)
    np.testing.assert_allclose(after.weights, theirs.weights_, rtol=1e-4)
    np.testing.assert_allclose(after.means, theirs.means_, atol=1e-4)
    np.testing.assert_allclose(after.covariances, theirs.covariances_, atol=1e-4)
    mean = em.mean_log_prob(em.Rows(rows), after)
    assert mean == pytest.approx(theirs.score(rows), abs=1e-3)
    np.testing.assert_allclose(after.estimator().score_samples(rows), theirs.score_samples(rows), atol=1e-2)


def test_covariances_are_shrunk_towards_their_weighted_mean(race: dict[str, ModuleType]) -> None:
    em, rows = race["gaussian_em"], three_clusters(500, 3)
    moments = em.clusters(em.Rows(rows), 3, 0)
    plain, shrunk = (em.maximised(moments, em.Setting(3, 1e-3, part)) for part in (0.0, 0.3))
    ridge = 1e-3 * torch.eye(3, dtype=torch.float64)
    pooled = torch.einsum("k,kij->ij", plain.weights, plain.covariances - ridge)
    expected = 0.7 * (plain.covariances - ridge) + 0.3 * pooled + ridge
    torch.testing.assert_close(shrunk.covariances, expected)


def test_a_component_without_rows_gets_the_pooled_covariance(race: dict[str, ModuleType]) -> None:
    em = race["gaussian_em"]
    second = torch.stack([torch.eye(2, dtype=torch.float64) * 100, -torch.eye(2, dtype=torch.float64)])
    zeros = torch.zeros(2, 2, dtype=torch.float64)
    moments = em.Moments(torch.tensor([100.0, 1.0], dtype=torch.float64), zeros, zeros, second, 0.0)
    found = em.maximised(moments, em.Setting(2, 1e-6, 0.0))
    assert torch.isfinite(found.roots).all()
    assert found.covariances[1, 0, 0] == pytest.approx(99 / 101 + 1e-6)


def test_the_background_is_the_wide_normal_law(race: dict[str, ModuleType]) -> None:
    em, rows = race["gaussian_em"], three_clusters(400, 2)
    setting = em.Setting(2, 1e-6, 0.0)
    start, _ = stepped(em, rows, setting)
    mixed = em.with_background(start, em.wide_normal(em.Rows(rows), 2.0), 0.1)
    wide = stats.multivariate_normal(rows.mean(axis=0), 4 * np.cov(rows.T)).pdf(rows)
    expected = 0.9 * np.exp(start.estimator().score_samples(rows)) + 0.1 * wide
    np.testing.assert_allclose(np.exp(mixed.estimator().score_samples(rows)), expected, rtol=1e-8)


@pytest.mark.slow
def test_it_finds_the_size_and_keeps_its_budget(race: dict[str, ModuleType]) -> None:
    contender = importlib.import_module("contenders.gmm_validated")
    rows = three_clusters(900, 2)
    clock = race["timed_descent"].Clock(1.5)
    density = contender.fit(rows, budget=1.5, seed=0)
    assert clock.used() < 1.5 * 1.05
    truth = GaussianMixture(3, n_init=3, random_state=0).fit(rows)
    fresh = three_clusters(900, 2)[::-1]
    assert density.log_prob(fresh).mean() > truth.score_samples(fresh).mean() - 0.1


def test_with_many_columns_covariances_are_shrunk(race: dict[str, ModuleType]) -> None:
    """Sixty columns, forty rows a component: full covariances cannot be paid for by rows."""
    contender, em = importlib.import_module("contenders.gmm_validated"), race["gaussian_em"]
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(30, 30))
    rows = rng.normal(size=(150, 30)) @ mixing + 20 * rng.integers(2, size=(150, 1))
    rows, held_out = em.Rows(rows[:120]), em.Rows(rows[120:])
    background = em.wide_normal(rows, 2.0)
    clock = race["timed_descent"].Clock(60.0)
    search = contender.Search(rows, held_out, held_out, background, clock)
    found = search.from_clusters(em.Setting(2, 1e-6, 0.0), 0)
    assert found.setting.shrinkage > 0

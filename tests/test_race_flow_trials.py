"""The race's best flow of several: whitening with its log-determinant, the wide normal law, the choice."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy import stats

from race_modules import imported


@pytest.fixture(scope="module")
def race() -> Iterator[dict[str, ModuleType]]:
    with imported(("density", "timed_descent", "contenders", "flow_trials")) as modules:
        yield modules


class Scaled(torch.nn.Module):
    """N(0, s² I) with s to be learned, as a flow's law."""

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.log_scale = torch.nn.Parameter(torch.full((dim,), start))

    def forward(self) -> torch.distributions.Distribution:
        normal = torch.distributions.Normal(torch.zeros_like(self.log_scale), self.log_scale.exp())
        return torch.distributions.Independent(normal, 1)


def leaning_rows(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 2)) @ np.array([[2.0, 1.0], [0.0, 0.1]]) + [1.0, -1.0]


def test_whitening_counts_its_determinant_and_comes_back(race: dict[str, ModuleType]) -> None:
    rows = leaning_rows(5000)
    whitening = race["flow_trials"].principal_whitening(rows)
    white = whitening.push(rows)
    np.testing.assert_allclose(np.cov(white.T), np.eye(2), atol=1e-8)
    assert whitening.log_det == pytest.approx(np.linalg.slogdet(whitening.matrix)[1])
    np.testing.assert_allclose(whitening.pull(white), rows, atol=1e-10)


def test_the_density_has_the_determinant_and_a_thousandth_of_a_wide_normal_law(
    race: dict[str, ModuleType],
) -> None:
    trials, rows = race["flow_trials"], leaning_rows(2000)
    made = [trials.Candidate(lambda dim: Scaled(dim, 0.0), trials.principal_whitening, 100, 1e-3)]
    density = trials.fit_best(made, rows, budget=0.2, seed=0)
    fitted, _ = race["density"].split(rows, 0)
    scale = density.inner.flow.log_scale.detach().double().exp().numpy()
    whitening = trials.principal_whitening(fitted)
    narrow = stats.norm(scale=scale).pdf(whitening.push(rows)).prod(axis=1) * math.exp(whitening.log_det)
    wide = stats.multivariate_normal(fitted.mean(axis=0), 4 * np.cov(fitted.T)).pdf(rows)
    expected = np.log(0.999 * narrow + 0.001 * wide)
    np.testing.assert_allclose(density.log_prob(rows), expected, atol=1e-4)
    far = fitted.mean(axis=0) + np.array([[1000.0, 1000.0]])
    assert np.isfinite(density.log_prob(far)).all()


def test_the_better_candidate_is_chosen_and_the_budget_kept(race: dict[str, ModuleType]) -> None:
    """On whitened rows the law can be met, on plain ones its columns lean."""
    trials, rows = race["flow_trials"], leaning_rows(2000)
    made = [
        trials.Candidate(lambda dim: Scaled(dim, 0.0), whiten, 100, 1e-2)
        for whiten in (trials.no_whitening, trials.principal_whitening)
    ]
    clock = race["timed_descent"].Clock(0.6)
    density = trials.fit_best(made, rows, budget=0.6, seed=0)
    assert clock.used() < 0.8
    assert density.whitening.log_det != 0
    truth = stats.multivariate_normal(rows.mean(axis=0), np.cov(rows.T)).logpdf(rows).mean()
    assert density.log_prob(rows).mean() == pytest.approx(truth, abs=0.02)

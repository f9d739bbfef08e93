"""Normal scores of a column: increasing, with the slope that they have, and near those of the law."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import trapezoid

from jkoflow.certify.normal_scores import NormalScores

LAWS = {
    "normal": stats.norm(3, 2),
    "log-normal": stats.lognorm(1.0),
    "pole": stats.gamma(0.5),
    "student": stats.t(2.5),
    "uniform": stats.uniform(-1, 2),
}


def scores_of(name: str) -> NormalScores:
    found = NormalScores.of(LAWS[name].rvs(4000, random_state=1))
    assert found is not None
    return found


@pytest.mark.parametrize("name", LAWS)
def test_scores_are_nearly_those_of_the_law(name: str) -> None:
    level = np.linspace(0.002, 0.998, 200)
    u, _ = scores_of(name)(LAWS[name].ppf(level))
    assert (np.diff(u) > 0).all()
    np.testing.assert_allclose(stats.norm.cdf(u), level, atol=0.02)


@pytest.mark.parametrize("name", LAWS)
def test_slope_is_that_of_the_scores(name: str) -> None:
    x = LAWS[name].ppf(np.array([0.01, 0.02, 0.1, 0.31, 0.5, 0.77, 0.985, 0.995]))
    step = 1e-6 * np.abs(x).clip(1e-3)
    scores = scores_of(name)
    (high, _), (low, _), (_, log_slope) = scores(x + step), scores(x - step), scores(x)
    np.testing.assert_allclose(log_slope, np.log((high - low) / (2 * step)), atol=1e-4)


@pytest.mark.parametrize("name", ["normal", "log-normal", "student"])
def test_density_has_the_mass_one(name: str) -> None:
    """phi(u) u' over 0.9999 of the law, the points as dense as the law."""
    x = LAWS[name].ppf(np.linspace(5e-5, 1 - 5e-5, 400_001))
    u, log_slope = scores_of(name)(x)
    mass = trapezoid(np.exp(stats.norm.logpdf(u) + log_slope), x)
    assert mass == pytest.approx(1, abs=2e-3)
    assert mass < 1 + 1e-6


def test_values_far_outside_are_finite() -> None:
    for name in LAWS:
        u, log_slope = scores_of(name)(np.array([-1e300, -1e6, 1e6, 1e300]))
        assert np.isfinite(u).all()
        assert np.isfinite(log_slope).all()


@pytest.mark.parametrize("column", [np.ones(500), np.arange(500) % 3.0])
def test_columns_of_few_values_have_none(column: np.ndarray) -> None:
    assert NormalScores.of(column) is None

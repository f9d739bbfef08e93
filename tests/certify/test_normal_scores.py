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


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e15])
@pytest.mark.parametrize("name", ["normal", "log-normal", "student"])
def test_density_has_the_mass_one(name: str, scale: float) -> None:
    """phi(u) u' over 0.9999 of the law, the points as dense as the law."""
    found = NormalScores.of(scale * LAWS[name].rvs(4000, random_state=1))
    assert found is not None
    x = scale * LAWS[name].ppf(np.linspace(5e-5, 1 - 5e-5, 400_001))
    u, log_slope = found(x)
    mass = trapezoid(np.exp(stats.norm.logpdf(u) + log_slope), x)
    assert mass == pytest.approx(1, abs=2e-3)
    assert mass < 1 + 1e-6


@pytest.mark.parametrize("name", LAWS)
def test_far_outside_scores_are_finite_and_densities_next_to_nothing(name: str) -> None:
    x = np.array([-1e300, -1e9, 1e9, 1e300])
    u, log_slope = scores_of(name)(x)
    assert np.isfinite(u).all()
    assert (np.diff(u) >= 0).all()
    log_density = stats.norm.logpdf(u) + log_slope
    assert np.isfinite(log_density).all()
    assert (log_density < -25).all()


def test_one_wild_value_leaves_the_scores_of_the_others() -> None:
    column = LAWS["normal"].rvs(4000, random_state=1)
    found = NormalScores.of(np.append(column, 1e12))
    assert found is not None
    bulk = column[np.abs(column - 3) < 3.7]
    np.testing.assert_allclose(found(bulk)[0], scores_of("normal")(bulk)[0], atol=0.01)


@pytest.mark.parametrize("column", [np.ones(500), np.arange(500) % 3.0, np.append(np.arange(500.0), np.inf)])
def test_columns_of_few_values_have_none(column: np.ndarray) -> None:
    assert NormalScores.of(column) is None

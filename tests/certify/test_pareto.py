"""The generalised Pareto law against SciPy's, and its fit against draws whose shape is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import genpareto

from jkoflow.certify.pareto import ParetoTail, fit_pareto_tail

SHAPES = [-1.5, -0.5, 0.0, 0.5, 1.0]


@pytest.mark.parametrize("shape", SHAPES)
def test_density_and_survival_are_those_of_the_law(shape: float) -> None:
    law, tail = genpareto(shape, scale=3.0), ParetoTail(shape, 3.0)
    y = law.ppf(np.linspace(0.01, 0.99, 30))
    np.testing.assert_allclose(tail.log_density(y), law.logpdf(y), atol=1e-8)
    np.testing.assert_allclose(tail.log_survival(y), law.logsf(y), atol=1e-8)


def test_a_law_that_ends_has_no_mass_beyond_its_end() -> None:
    assert ParetoTail(-0.5, 1.0).log_survival(np.array([2.0, 5.0])) == pytest.approx([-np.inf, -np.inf])


@pytest.mark.parametrize("shape", SHAPES)
def test_shape_and_scale_of_draws(shape: float) -> None:
    y = genpareto(shape, scale=3.0).rvs(4000, random_state=0)
    found, rescaled = fit_pareto_tail(y), fit_pareto_tail(1e6 * y)
    assert found is not None
    assert rescaled is not None
    assert found.shape == pytest.approx(shape, abs=0.08)
    assert found.scale == pytest.approx(3.0, rel=0.1)
    assert rescaled.shape == pytest.approx(found.shape, abs=1e-6)
    assert rescaled.scale == pytest.approx(1e6 * found.scale, rel=1e-6)


@pytest.mark.parametrize("y", [[1.0, 2.0, 3.0, 4.0], [2.0] * 20, []])
def test_nothing_is_told_of_too_few_values(y: list[float]) -> None:
    assert fit_pareto_tail(np.array(y)) is None


@pytest.mark.parametrize(
    "y", [[1e-310, 2e-310, 3e-310, 1.0, 2.0, 3.0], [1e-12] * 3 + [1e5, 2e5, 1e300], [1e-12] * 9 + [1.0]]
)
def test_what_is_fitted_to_extreme_values_is_a_law_or_nothing(y: list[float]) -> None:
    found = fit_pareto_tail(np.array(y))
    assert found is None or (np.isfinite(found.shape) and 0 < found.scale < np.inf)


@pytest.mark.parametrize("shape", [-0.5, -1.0, -2.0])
def test_density_is_zero_beyond_the_end_of_the_law(shape: float) -> None:
    assert ParetoTail(shape, 1.0).log_density(np.array([5.0, 1e9])) == pytest.approx([-np.inf, -np.inf])

"""Departures from the normal law, against what is known of them."""

from __future__ import annotations

import numpy as np
import pytest

from jkoflow.report.normality import (
    chi2_quantiles,
    energy_distance,
    measure_normality,
    normal_quantiles,
    order_band,
)


def cramer_distance(z, y):
    """2 ∫ (F - G)² dx, which the energy distance is in one dimension (Székely & Rizzo 2013)."""
    points = np.sort(np.concatenate([z, y]))
    gap = np.searchsorted(np.sort(z), points, "right") / len(z) - np.searchsorted(
        np.sort(y), points, "right"
    ) / len(y)
    return 2 * np.sum(gap[:-1] ** 2 * np.diff(points))


def test_energy_distance_in_one_dimension_is_the_cramer_distance(seed):
    generator = np.random.default_rng(seed)
    z, y = generator.normal(0.3, 2, 80), generator.normal(0, 1, 130)
    assert energy_distance(z[:, None], y[:, None]) == pytest.approx(cramer_distance(z, y), rel=1e-10)


def test_normal_rows_stay_below_the_reference_and_others_do_not():
    below = [
        measured.energy <= measured.energy_reference
        for measured in (measure_normality(np.random.default_rng(s).normal(size=(200, 3))) for s in range(20))
    ]
    # By chance 1 in 20 is above; 15 or fewer of 20 below would have a probability under 0.003.
    assert sum(below) > 15
    shifted = measure_normality(np.random.default_rng(0).normal(0.5, 1, size=(200, 3)))
    assert shifted.energy > shifted.energy_reference


def test_moments_are_those_of_the_rows(seed):
    z = (
        np.random.default_rng(seed).normal(size=(4000, 3)) @ np.array([[2.0, 0, 0], [0, 1, 0.6], [0, 0, 0.8]])
        + 0.4
    )
    measured = measure_normality(z)
    correlation = np.corrcoef(z.T)
    assert measured.largest_mean == pytest.approx(np.abs(z.mean(axis=0)).max())
    assert measured.largest_std == pytest.approx(z.std(axis=0).max())
    assert measured.smallest_std == pytest.approx(z.std(axis=0).min())
    assert measured.largest_correlation == pytest.approx(np.abs(correlation[np.triu_indices(3, 1)]).max())
    assert measured.rows == 4000


@pytest.mark.parametrize("dim", [None, 5])
def test_band_holds_each_sorted_value_in_95_of_100_draws(dim, seed):
    generator = np.random.default_rng(seed)
    n, draws = 40, 4000
    values = generator.normal(size=(draws, n)) if dim is None else generator.chisquare(dim, size=(draws, n))
    low, high = order_band(n, dim=dim)
    ordered = np.sort(values, axis=1)
    for outside in ((ordered < low).mean(axis=0), (ordered > high).mean(axis=0)):
        # One rank by itself, then all together: standard errors of 0.0025 and less.
        assert np.all(np.abs(outside - 0.025) < 0.012)
        assert abs(outside.mean() - 0.025) < 0.006


def test_quantiles_lie_in_the_middle_of_their_band():
    for expected, (low, high) in (
        (normal_quantiles(30), order_band(30)),
        (chi2_quantiles(30, 4), order_band(30, dim=4)),
    ):
        assert np.all((low < expected) & (expected < high))

"""The bracket of W2(p, q) from rows, against closed forms and its own promises."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.stats import norm, uniform

from jkoflow.certify.evidence import Evidence
from jkoflow.certify.trajectory import follow
from jkoflow.certify.w2_to_base import assignment_w2_squared, brackets
from jkoflow.exact import GaussianState, w2
from jkoflow.flow import Flow
from jkoflow.laws import Gaussian, StandardNormal
from oracles.gaussian_flows import gaussian_flow


def of_rows(x: np.ndarray, *, seed: int = 0):
    evidence = Evidence(Flow(StandardNormal(x.shape[1])), None, seed=seed)
    return brackets(evidence, torch.as_tensor(x)[None])[0]


def test_the_ends_hold_the_distance_as_often_as_they_say():
    state = GaussianState([1.0, 0.0], [[0.5, 0.2], [0.2, 1.5]])
    true, rng = w2(state, GaussianState(np.zeros(2), np.eye(2))), np.random.default_rng(0)
    found = [
        of_rows(rng.multivariate_normal(state.mean, state.covariance, 300), seed=seed) for seed in range(60)
    ]
    assert sum(bracket.lower <= true for bracket in found) >= 55  # 58.5 expected
    assert sum(true <= bracket.upper for bracket in found) >= 57
    assert all(bracket.lower <= bracket.estimate <= bracket.upper for bracket in found)
    assert np.mean([bracket.lower for bracket in found]) == pytest.approx(true, rel=0.15)


def test_rows_of_q_itself_are_not_told_from_it():
    rng = np.random.default_rng(1)
    found = [of_rows(rng.normal(size=(300, 4)), seed=seed) for seed in range(40)]
    assert sum(bracket.lower == 0 for bracket in found) >= 36  # 39 expected
    assert all(bracket.upper > 0.8 * bracket.chance for bracket in found)


def test_one_dimension_is_the_distance_of_the_quantile_functions():
    """Uniform rows: W2² = 1/3 w²+ 1 - 2 E[U Φ^{-1}(U)], with E[(2U - 1) Φ^{-1}(U)] = 1/sqrt(pi)."""
    width = 3.0
    x = uniform(-width, 2 * width).ppf((np.arange(3000) + 0.5) / 3000)
    true = np.sqrt(width**2 / 3 + 1 - 2 * width / np.sqrt(np.pi))
    found = of_rows(np.random.default_rng(0).permutation(x)[:, None])
    assert found.chance == 0
    assert found.estimate == pytest.approx(true, abs=2e-3)
    assert found.lower <= true <= found.upper
    quantiles = norm.ppf((np.arange(3000) + 0.5) / 3000)
    assert of_rows(quantiles[:, None]).estimate < 0.01


def test_another_base_law():
    evidence = Evidence(Flow(Gaussian([2.0], [[0.25]])), None)
    x = np.random.default_rng(0).normal(size=(1000, 1))
    found = brackets(evidence, torch.as_tensor(x)[None])[0]
    assert found.lower < np.sqrt(4 + 0.25) < found.upper
    assert found.estimate == pytest.approx(np.sqrt(4 + 0.25), abs=0.15)


def test_the_end_of_the_flow_bounds_what_comes_before():
    """In ten dimensions the assignment alone is far off where p_n = p_N."""
    made = gaussian_flow(10, (0.5, 1e-9, 1e-9))
    evidence = made.evidence(1500)
    found = brackets(evidence, follow(evidence).positions)
    assert found[1].upper == pytest.approx(found[3].upper, rel=0.02)
    for n, bracket in enumerate(found):
        assert bracket.lower <= made.w2(n) <= bracket.upper


def test_assignments_are_the_least_cost_and_do_not_feel_a_shift():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 2)), rng.normal(size=(5, 2)) + 10
    least = min(((x - y[list(order)]) ** 2).sum(axis=1).mean() for order in permutations(range(5)))
    assert assignment_w2_squared(x, y) == pytest.approx(least)

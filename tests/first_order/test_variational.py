"""The residual from samples alone against injected errors: below the truth, near it, none where none is."""

from __future__ import annotations

import math

import pytest
import torch

from jkoflow.errors import InputError
from jkoflow.first_order import FieldSearch, StepPairs, variational_norm
from jkoflow.first_order.variational import _Features, _Rows
from jkoflow.laws import StandardNormal
from oracles.blocks import generator

AFFINE = FieldSearch(scales=())


def normal_rows(n: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dim, generator=generator(seed), dtype=torch.float64)


def mean_shift(n: int, dim: int, eps: float, *, gamma: float = 0.5, seed: int = 0) -> StepPairs:
    """N(m, I) to N((m + gamma a)/(1 + gamma), I), |a| = eps: xi = a everywhere."""
    a = torch.full((dim,), eps / math.sqrt(dim), dtype=torch.float64)
    start = torch.full((dim,), 2 / math.sqrt(dim), dtype=torch.float64)
    x = start + normal_rows(n, dim, seed)
    return StepPairs(x, x - start + (start + gamma * a) / (1 + gamma), gamma, StandardNormal(dim))


@pytest.mark.parametrize("eps", [0.2, 1.0])
@pytest.mark.parametrize("dim", [1, 2, 10, 50])
def test_injected_mean_shift_is_found(dim, eps):
    """Up to noise, and from below by what 4,000 rows leave of so many coefficients."""
    found = variational_norm(mean_shift(4000, dim, eps), generator=generator(1))
    assert eps**2 * 0.9 - dim / 2000 - 4 * found.se < found.square < eps**2 + 4 * found.se
    assert found.value == pytest.approx(eps, rel=0.35)
    assert 0 < found.se < 0.1


@pytest.mark.parametrize("dim", [1, 3, 20])
def test_nothing_is_found_at_the_true_minimiser(dim):
    values = [
        variational_norm(mean_shift(1500, dim, 0.0, seed=s), generator=generator(s)).square for s in range(3)
    ]
    assert max(values) < 0.01
    assert min(values) > -0.1


def test_injected_stretch_is_found():
    """N(0, s²) on the line with T = c x: xi'(y) = (1 - 1/(c s)² + (1 - 1/c)/gamma) y."""
    s, c, gamma = 1.5, 0.9, 0.5
    x = s * normal_rows(8000, 1)
    slope = 1 - 1 / (c * s) ** 2 + (1 - 1 / c) / gamma
    found = variational_norm(StepPairs(x, c * x, gamma, StandardNormal(1)), generator=generator(2))
    assert found.square == pytest.approx((slope * c * s) ** 2, abs=4 * found.se)
    assert found.se < 0.1 * found.square


def test_residual_without_a_linear_part_needs_waves():
    """Two modes, T = id, gamma infinite: xi = x + ∇log p, far from affine, from the mixture's score."""
    n, centre, spread = 12_000, 1.5, 0.5
    signs = torch.where(torch.arange(n) % 2 == 0, 1.0, -1.0).double()[:, None]
    x = centre * signs + spread * normal_rows(n, 1)
    score = (centre * torch.tanh(x * centre / spread**2) - x) / spread**2
    truth = float((x + score).square().mean())
    pairs = StepPairs(x, x, math.inf, StandardNormal(1))
    found = variational_norm(pairs, generator=generator(3))
    affine = variational_norm(pairs, generator=generator(3), search=AFFINE)
    assert affine.square < 0.4 * truth
    assert 0.8 * truth < found.square < truth + 4 * found.se


def test_context_is_part_of_what_phi_sees():
    """x | c ~ N(c, 1), T = id, free: xi = c given c, and less without it: y - y/2."""
    c = normal_rows(6000, 1, 1)
    x = c + normal_rows(6000, 1, 2)
    with_context = StepPairs(x, x, math.inf, StandardNormal(1), c)
    without = StepPairs(x, x, math.inf, StandardNormal(1))
    found = [variational_norm(pairs, generator=generator(4)).square for pairs in (with_context, without)]
    assert found[0] == pytest.approx(1.0, abs=0.1)
    assert found[1] == pytest.approx(0.5, abs=0.08)


def test_value_is_below_the_truth_on_average():
    """The mean over many small samples, each badly fitted, does not exceed ‖xi‖² = 0.09."""
    found = [
        variational_norm(mean_shift(200, 3, 0.3, seed=s), generator=generator(s), search=AFFINE).square
        for s in range(100)
    ]
    values = torch.tensor(found)
    assert float(values.mean()) < 0.09 + 2 * float(values.std()) / math.sqrt(len(values))


def test_standard_error_is_the_spread_over_repetitions():
    found = [
        variational_norm(mean_shift(1000, 2, 1.0, seed=s), generator=generator(s), search=AFFINE)
        for s in range(40)
    ]
    squares = torch.tensor([norm.square for norm in found])
    expected = sum(norm.se for norm in found) / len(found)
    assert float(squares.std()) == pytest.approx(expected, rel=0.35)


def test_features_have_the_derivatives_that_they_say():
    columns = normal_rows(40, 4) @ normal_rows(4, 4, 1)
    features = _Features.of(columns, 3, FieldSearch(scales=(1.0, 3.0)), generator(0))
    values, slopes = features.at(columns)
    assert values.shape[1] == features.sizes(2)[-1] == len(features.directions)
    for axis in range(3):
        h = torch.zeros(4, dtype=torch.float64)
        h[axis] = 1e-6
        numeric = (features.at(columns + h)[0] - features.at(columns - h)[0]) / 2e-6
        torch.testing.assert_close(slopes * features.directions[:, axis], numeric, atol=1e-7, rtol=1e-6)


def test_gain_of_rows_averages_to_the_quadratic_form():
    pairs = mean_shift(300, 3, 0.7)
    rows = _Rows.of(_Features.of(pairs.after, 3, FieldSearch(scales=(1.0,)), generator(0)), pairs)
    moments = rows.moments()
    c = 0.1 * normal_rows(len(moments.a), 3, 9)
    quadratic = float((2 * c * moments.b - c * (moments.a @ c)).sum())
    assert float(rows.gains(c).mean()) == pytest.approx(quadratic)


def test_same_seed_same_number_and_too_few_rows_are_refused():
    pairs = mean_shift(200, 2, 1.0)
    assert variational_norm(pairs, generator=generator(1)) == variational_norm(pairs, generator=generator(1))
    with pytest.raises(InputError, match="at least 100 rows"):
        variational_norm(mean_shift(50, 2, 1.0), generator=generator(1))

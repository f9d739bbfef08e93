"""The triangular map of a mixture: its law, its closed cases, its Jacobian, its tails."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor

from jkoflow.blocks import MixtureBlock
from jkoflow.blocks import mixture as mixture_module
from jkoflow.laws import GaussianMixture, StandardNormal
from oracles.blocks import generator, mixture_numbers, points


def map_of(weights: Tensor, means: Tensor, covariances: Tensor, *, context_dim: int = 0) -> MixtureBlock:
    law = GaussianMixture(weights, means, covariances=covariances)
    return MixtureBlock.of(law, context_dim=context_dim)


def block_and_law(dim: int, n_components: int = 4) -> tuple[MixtureBlock, GaussianMixture]:
    weights, means, covariances = mixture_numbers(n_components, dim, seed=2)
    return map_of(weights, means, covariances), GaussianMixture(weights, means, covariances=covariances)


@pytest.mark.parametrize("dim", [1, 2, 6])
def test_density_is_that_of_the_mixture(dim: int) -> None:
    block, law = block_and_law(dim)
    x = points(40, dim)
    y, log_det = block.push_with_log_det(x)
    torch.testing.assert_close(StandardNormal(dim).log_prob(y) + log_det, law.log_prob(x))


def test_density_given_a_context_is_the_conditional_one() -> None:
    weights, means, covariances = mixture_numbers(3, 4, seed=2)
    joint = GaussianMixture(weights, means, covariances=covariances)
    marginal = GaussianMixture(weights, means[:, :2], covariances=covariances[:, :2, :2])
    block = map_of(weights, means, covariances, context_dim=2)
    context, x = points(30, 2, seed=3), points(30, 2)
    y, log_det = block.push_with_log_det(x, context)
    expected = joint.log_prob(torch.cat([context, x], dim=1)) - marginal.log_prob(context)
    torch.testing.assert_close(StandardNormal(2).log_prob(y) + log_det, expected)


@pytest.mark.parametrize("context_dim", [0, 2])
def test_mean_of_mixtures_has_the_mean_of_their_densities(context_dim: int) -> None:
    """Given a context, of the joint densities over that of the marginal ones."""
    numbers = [mixture_numbers(k, 3 + context_dim, seed=k) for k in (2, 5)]
    block = MixtureBlock.mean_of([map_of(*each, context_dim=context_dim) for each in numbers])
    x, context = points(30, 3), points(30, 2, seed=3) if context_dim else None
    rows = x if context is None else torch.cat([context, x], dim=1)

    def mean_log_density(rows: torch.Tensor, p: int) -> torch.Tensor:
        laws = [GaussianMixture(w, m[:, :p], covariances=c[:, :p, :p]) for w, m, c in numbers]
        return torch.stack([law.log_prob(rows) for law in laws]).logsumexp(dim=0) - math.log(2)

    expected = mean_log_density(rows, rows.shape[1])
    if context is not None:
        expected = expected - mean_log_density(context, 2)
    y, log_det = block.push_with_log_det(x, context)
    torch.testing.assert_close(StandardNormal(3).log_prob(y) + log_det, expected)
    torch.testing.assert_close(block.pull(y, context), x, atol=1e-8, rtol=0)


def test_draws_of_the_mixture_become_standard_normal() -> None:
    block, law = block_and_law(3)
    y = block.push(law.sample(20_000, generator(4)))
    assert min(stats.kstest(column.numpy(), "norm").pvalue for column in y.T) > 0.01
    torch.testing.assert_close(torch.cov(y.T), torch.eye(3, dtype=torch.float64), atol=0.05, rtol=0)
    products = y[:, :1].square() * y[:, 1:].square()
    assert float((products.mean(dim=0) - 1).abs().max()) < 0.1, "independent, not only uncorrelated"


def test_of_one_component_it_is_the_inverse_cholesky_factor() -> None:
    _, means, covariances = mixture_numbers(1, 3, seed=2)
    block = map_of(torch.ones(1), means, covariances)
    x = points(10, 3)
    factor = torch.linalg.cholesky(covariances[0])
    expected = torch.linalg.solve_triangular(factor, (x - means[0]).T, upper=False).T
    torch.testing.assert_close(block.push(x), expected)
    torch.testing.assert_close(
        block.push_with_log_det(x)[1], -factor.diagonal().log().sum().expand(len(x)), atol=1e-10, rtol=0
    )


@pytest.mark.parametrize("context_dim", [0, 2])
def test_jacobian_is_that_of_push(context_dim: int) -> None:
    weights, means, covariances = mixture_numbers(4, context_dim + 3, seed=2)
    block = map_of(weights, means, covariances, context_dim=context_dim)
    x, context = points(12, 3), points(12, context_dim, seed=3) if context_dim else None

    def row(at: torch.Tensor, given: torch.Tensor | None) -> torch.Tensor:
        return block.push(at[None], None if given is None else given[None])[0]

    by_row = torch.func.vmap(torch.func.jacrev(row), in_dims=(0, None if context is None else 0))
    y, jacobian = block.push_with_jacobian(x, context)
    torch.testing.assert_close(y, block.push(x, context))
    torch.testing.assert_close(jacobian, by_row(x, context), atol=1e-9, rtol=1e-9)
    assert not bool(jacobian.triu(diagonal=1).any())


def test_gradient_of_the_log_density_is_the_score_of_the_mixture() -> None:
    block, law = block_and_law(2)
    x = points(20, 2).requires_grad_()
    y, log_det = block.push_with_log_det(x)
    (found,) = torch.autograd.grad((StandardNormal(2).log_prob(y) + log_det).sum(), x)
    again = x.detach().requires_grad_()
    (expected,) = torch.autograd.grad(law.log_prob(again).sum(), again)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


def test_far_rows_have_a_gradient() -> None:
    """Where no probability is a number in float64 any more, beside rows where it is."""
    block, law = block_and_law(2)
    x = (points(8, 2) + torch.tensor([0.0, 200.0]).repeat(4).double()[:, None]).requires_grad_()
    y, log_det = block.push_with_log_det(x)
    (found,) = torch.autograd.grad((StandardNormal(2).log_prob(y) + log_det).sum(), x)
    again = x.detach().requires_grad_()
    (expected,) = torch.autograd.grad(law.log_prob(again).sum(), again)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("distance", [20.0, 200.0, 2000.0])
def test_far_rows_keep_their_density_and_come_back(distance: float) -> None:
    """Where no probability is a number in float64 any more."""
    block, law = block_and_law(2)
    x = points(8, 2) + distance
    y, log_det = block.push_with_log_det(x)
    density = StandardNormal(2).log_prob(y) + log_det
    torch.testing.assert_close(density, law.log_prob(x), atol=1e-6, rtol=1e-9)
    inverse = block.invert(y)
    assert float(inverse.error.max()) < 1e-9 * distance
    torch.testing.assert_close(inverse.x, x, atol=1e-5, rtol=1e-9)


@pytest.mark.parametrize("distance", [1e8, 1e20, 1e60, 1e120])
def test_log_det_keeps_its_digits_however_far_a_row_lies(distance: float) -> None:
    """A Gaussian a thousandth as wide beside a broad one: far out the map is the broad one's, slopes 1/3."""
    means = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    covariances = torch.stack([9.0 * torch.eye(2), 9e-6 * torch.eye(2)])
    block = map_of(torch.tensor([0.2, 0.8]), means, covariances)
    x = distance * torch.tensor([[1.0, 0.5], [-0.3, 2.0], [1.0, -1e-3]], dtype=torch.float64)
    y, log_det = block.push_with_log_det(x)
    torch.testing.assert_close(y, x / 3, rtol=1e-6, atol=0)
    torch.testing.assert_close(log_det, torch.full_like(log_det, -2 * math.log(3)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("distance", [42.5, 60.0])
def test_a_column_between_modes_is_the_same_beside_one_that_lies_far_out(distance: float) -> None:
    """Two modes and an independent column: what the latter is changes nothing, nor the gradient."""
    means = torch.tensor([[-distance, 0.0], [distance, 0.0]])
    block = map_of(torch.tensor([0.6, 0.4]), means, torch.eye(2).expand(2, 2, 2))
    x = torch.tensor([[3.0, 0.0], [3.0, 5e6]], dtype=torch.float64, requires_grad=True)
    _, log_det = block.push_with_log_det(x)
    torch.testing.assert_close(log_det[0], log_det[1], rtol=1e-9, atol=0)
    (slope,) = torch.autograd.grad(log_det.sum(), x)
    assert float(slope[0, 0]) == pytest.approx(float(slope[1, 0]), rel=1e-6)


def test_log_det_is_the_same_by_ratios_and_by_densities(monkeypatch: pytest.MonkeyPatch) -> None:
    block, _ = block_and_law(2)
    x = torch.cat([points(40, 2), points(40, 2) + 30, 200 * points(40, 2)])
    _, by_densities = block.push_with_log_det(x)
    monkeypatch.setattr(mixture_module, "rules", replace(mixture_module.rules, far_square=0.0))
    _, by_ratios = block.push_with_log_det(x)
    assert not torch.equal(by_ratios, by_densities)
    torch.testing.assert_close(by_ratios, by_densities, atol=1e-8, rtol=1e-8)


def test_modes_far_apart_are_inverted() -> None:
    """Between them the map is almost flat: quantiles jump."""
    weights, means = torch.tensor([0.3, 0.7]), torch.tensor([[-8.0], [8.0]])
    block = map_of(weights, means, torch.ones(2, 1, 1))
    z = torch.linspace(-4, 4, 101, dtype=torch.float64)[:, None]
    inverse = block.invert(z)
    assert float(inverse.error.max()) < 1e-10
    jump = stats.norm.ppf(0.3)
    assert bool((inverse.x[z < jump - 0.01] < -3).all())
    assert bool((inverse.x[z > jump + 0.01] > 3).all())


def test_rows_beyond_one_chunk_are_the_same_rows() -> None:
    block, _ = block_and_law(3)
    x = points(50, 3)
    whole = block.push_with_log_det(x), block.pull(x)
    block.pushed_numbers = block.pulled_numbers = 7 * block.means.numel()  # type: ignore[misc]  # of this one
    parts = block.push_with_log_det(x), block.pull(x)
    torch.testing.assert_close(parts, whole, atol=1e-12, rtol=0)


def test_without_numbers_it_is_the_identity() -> None:
    x = points(4, 2)
    y, log_det = MixtureBlock(dim=2, n_components=3).double().push_with_log_det(x)
    torch.testing.assert_close(y, x)
    torch.testing.assert_close(log_det, torch.zeros(4, dtype=torch.float64), atol=1e-12, rtol=0)


def test_no_rows() -> None:
    block, _ = block_and_law(2)
    y, log_det = block.push_with_log_det(torch.zeros(0, 2, dtype=torch.float64))
    assert (y.shape, log_det.shape) == ((0, 2), (0,))
    assert block.pull(torch.zeros(0, 2, dtype=torch.float64)).shape == (0, 2)
    assert math.isfinite(float(block.log_weights.sum()))


@pytest.mark.parametrize("context_dim", [0, 2])
def test_source_density_is_that_of_the_map(context_dim: int) -> None:
    weights, means, covariances = mixture_numbers(4, context_dim + 3, seed=2)
    block = map_of(weights, means, covariances, context_dim=context_dim)
    x, context = 3 * points(40, 3), points(40, context_dim, seed=3) if context_dim else None
    y, log_det = block.push_with_log_det(x, context)
    found = block.source_log_prob(x, context)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, StandardNormal(3).log_prob(y) + log_det)


@pytest.mark.parametrize("context_dim", [0, 2])
def test_source_draws_have_the_law_that_becomes_standard_normal(context_dim: int) -> None:
    weights, means, covariances = mixture_numbers(4, context_dim + 3, seed=2)
    block = map_of(weights, means, covariances, context_dim=context_dim)
    noise = torch.randn(20_000, 3, generator=generator(5), dtype=torch.float64)
    context = points(20_000, context_dim, seed=3) if context_dim else None
    y = block.push(block.source_draw(noise, context), context)
    assert min(stats.kstest(column.numpy(), "norm").pvalue for column in y.T) > 0.01
    torch.testing.assert_close(torch.cov(y.T), torch.eye(3, dtype=torch.float64), atol=0.05, rtol=0)
    products = y[:, :1].square() * y[:, 1:].square()
    assert float((products.mean(dim=0) - 1).abs().max()) < 0.1, "independent, not only uncorrelated"
    if context is not None:
        dependence = torch.corrcoef(torch.cat([context, y], dim=1).T)[:context_dim, context_dim:]
        assert float(dependence.abs().max()) < 0.03


def test_a_source_draw_of_one_component_is_the_inverse_image() -> None:
    _, means, covariances = mixture_numbers(1, 3, seed=2)
    block, noise = map_of(torch.ones(1), means, covariances), points(50, 3)
    torch.testing.assert_close(block.source_draw(noise), block.pull(noise))


def test_source_draws_know_the_weights_and_bear_any_noise() -> None:
    weights, means = torch.tensor([0.05, 0.7, 0.25]), torch.tensor([[-90.0], [0.0], [90.0]])
    block = map_of(weights, means, torch.ones(3, 1, 1))
    noise = torch.special.ndtri((torch.arange(1000, dtype=torch.float64)[:, None] + 0.5) / 1000)
    drawn = block.source_draw(noise)
    assert [int(((drawn - m).abs() < 10).sum()) for m in (-90, 0, 90)] == [50, 700, 250]
    assert bool(block.source_draw(torch.tensor([[-40.0], [40.0]], dtype=torch.float64)).isfinite().all())


def test_a_source_draw_does_not_depend_on_the_other_rows() -> None:
    block, _ = block_and_law(3)
    noise = points(20, 3)
    one_by_one = torch.cat([block.source_draw(row[None]) for row in noise])
    torch.testing.assert_close(block.source_draw(noise), one_by_one, atol=1e-12, rtol=1e-12)

"""The closing step: which number of components held-out rows ask for, and what it makes of the flow."""

from __future__ import annotations

import math

import pytest
import torch

from jkoflow.blocks import AffineBlock, MixtureBlock
from jkoflow.closing import (
    Closing,
    best_closing,
    close,
    closing_by_nothing,
    mixture_of,
    stacked_closing,
    stacked_components,
)
from jkoflow.closing_search import Search
from jkoflow.fit import FitState, initial_state
from jkoflow.flow.likelihood import log_prob
from jkoflow.laws import GaussianMixture, StandardNormal
from jkoflow.particles import Particles
from jkoflow.runtime import Runtime
from oracles.blocks import generator, points

RUNTIME = Runtime(0, dtype=torch.float64)
SEARCH = Search(rows=3000, tolerance=1e-3, most_components=16)


def clusters(n_clusters: int) -> GaussianMixture:
    angle = torch.arange(n_clusters, dtype=torch.float64) * 2 * torch.pi / n_clusters
    centres = 4 * torch.stack([angle.cos(), angle.sin()], dim=1)
    return GaussianMixture(torch.ones(n_clusters), centres, stds=0.4 * torch.ones(n_clusters))


def state_of(train: torch.Tensor, validation: torch.Tensor) -> FitState:
    return initial_state(StandardNormal(train.shape[1]), Particles(train), Particles(validation))


def drawn(law: GaussianMixture | StandardNormal, n: int = 3000) -> FitState:
    return state_of(law.sample(n, generator(1)), law.sample(1000, generator(2)))


def test_clusters_are_counted_and_the_closed_flow_is_their_law() -> None:
    law = clusters(4)
    state = drawn(law)
    closing = best_closing(state, RUNTIME, SEARCH)
    assert closing.n_components == 4
    after, step = close(closing, state, RUNTIME)
    x = law.sample(500, generator(3))
    assert float((log_prob(after.flow, x) - law.log_prob(x)).abs().mean()) < 0.1
    assert after.nll == pytest.approx(closing.nll)
    assert (step.info["finished_on"], step.info["components"]) == ("closed_form", 4)
    assert (after.number, len(after.flow)) == (1, 1)
    assert float(after.train.x.square().mean()) == pytest.approx(1.0, abs=0.05)


def test_normal_rows_are_whitened_at_most() -> None:
    closing = best_closing(drawn(StandardNormal(3)), RUNTIME, SEARCH)
    assert closing.n_components <= 1
    scaled = state_of(3 * points(3000, 3), 3 * points(1000, 3, seed=5))
    assert isinstance(best_closing(scaled, RUNTIME, SEARCH).block, AffineBlock)


def test_few_rows_get_no_mixture() -> None:
    law = clusters(4)
    closing = best_closing(drawn(law, n=30), RUNTIME, SEARCH)
    assert closing.n_components <= 1


def test_search_stays_below_the_most_components() -> None:
    state = drawn(clusters(8))
    for most in (1, 2, 4, 16):
        search = Search(rows=3000, tolerance=1e-3, most_components=most)
        assert best_closing(state, RUNTIME, search).n_components <= most


def test_closing_is_carried_on_with_rows_that_have_moved() -> None:
    """EM starts at the optimum of the moved rows, where the block between is affine."""
    law = clusters(4)
    state = drawn(law)
    before = best_closing(state, RUNTIME, SEARCH)
    matrix = torch.tensor([[0.8, 0.3], [0.3, 1.1]], dtype=torch.float64)
    block = AffineBlock(dim=2, matrix=matrix)
    moved = state_of(block.push(state.train.x), block.push(state.validation.x))
    after = best_closing(moved, RUNTIME, SEARCH, before=before)
    shift = float(torch.linalg.slogdet(matrix)[1])
    assert after.n_components == 4
    assert after.nll == pytest.approx(before.nll + shift, abs=2e-3)


def test_start_from_responsibilities_needs_no_luck() -> None:
    """Those of the truth lead to the truth, in one iteration."""
    law = clusters(8)
    x = law.sample(4000, generator(1))
    heights = -(x[:, None] - law.means).square().sum(-1) / (2 * 0.4**2)
    block, found = mixture_of(Particles(x), 8, generator(0), responsibilities=heights.softmax(dim=1))
    means = block.means[:8]
    order = torch.cdist(means.double(), law.means).argmin(dim=1)
    assert torch.equal(order, torch.arange(8))
    torch.testing.assert_close(means, law.means, atol=0.06, rtol=0)
    assert found.shape == (4000, 8)


def test_a_row_unlike_any_other_has_a_density() -> None:
    """Columns that nearly agree, and a row whose do not: 1,000 standard deviations off every component."""
    x = points(3000, 2)
    x[:, 1] = x[:, 0] + 1e-3 * x[:, 1]
    block, _ = mixture_of(Particles(x), 4, generator(0))
    odd = torch.tensor([[0.5, -0.5]], dtype=torch.float64)
    y, log_det = block.push_with_log_det(odd)
    log_density = float((StandardNormal(2).log_prob(y) + log_det)[0])
    scale = x.std(dim=0)
    background = math.log(1 / 3001) - math.log(2 * math.pi * 4 * float(scale.prod())) - 0.25 / 4
    assert log_density == pytest.approx(background, abs=0.1)
    assert torch.allclose(block.pull(y), odd, atol=1e-6)


def test_the_component_for_such_rows_costs_the_others_nearly_nothing() -> None:
    law = clusters(4)
    x = law.sample(3000, generator(1))
    block, _ = mixture_of(Particles(x), 4, generator(0))
    alone = MixtureBlock.of(
        block.log_weights[:4].exp(),
        block.means[:4],
        torch.linalg.inv(block.inverse_factors[:4].mT @ block.inverse_factors[:4]),
    )
    nats = [
        float((StandardNormal(2).log_prob(y) + d).mean())
        for y, d in (block.push_with_log_det(x), alone.push_with_log_det(x))
    ]
    assert 0 < nats[1] - nats[0] < 1 / 3000


def test_with_a_context_the_mixture_is_one_given_it() -> None:
    """x = ±2c + noise: no mixture of x alone knows the sign's centres."""
    context = points(3000, 1, seed=3)
    sign = torch.where(points(3000, 1, seed=4) > 0.3, 1.0, -1.0)
    x = 2 * sign * context + 0.3 * points(3000, 1, seed=5)
    state = initial_state(
        StandardNormal(1), Particles(x[:2000], context[:2000]), Particles(x[2000:], context[2000:])
    )
    closing = best_closing(state, RUNTIME, SEARCH)
    assert isinstance(closing.block, MixtureBlock)
    assert closing.block.context_dim == 1
    blind = best_closing(state_of(x[:2000], x[2000:]), RUNTIME, SEARCH)
    assert closing.nll < blind.nll - 0.3


def test_columns_of_any_scale_have_the_same_closing() -> None:
    state = drawn(clusters(4))
    scale = torch.tensor([1e-3, 50.0], dtype=torch.float64)
    scaled = state_of(state.train.x * scale, state.validation.x * scale)
    one, other = best_closing(state, RUNTIME, SEARCH), best_closing(scaled, RUNTIME, SEARCH)
    assert other.n_components == one.n_components
    assert other.nll == pytest.approx(one.nll + float(scale.log().sum()), abs=1e-6)


def test_many_columns_leave_no_time_for_a_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    state = drawn(clusters(4))
    monkeypatch.setattr("jkoflow.closing._MOST_PRODUCTS", 2.5 * 3000 * 2**2)
    assert best_closing(state, RUNTIME, SEARCH).n_components == 2
    monkeypatch.setattr("jkoflow.closing._MOST_PRODUCTS", 1.5 * 3000 * 2**2)
    assert best_closing(state, RUNTIME, SEARCH).n_components <= 1


def test_mixture_that_is_not_found_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(rows: Particles, n_components: int, *rest: object, **more: object) -> object:
        if n_components > 2:
            raise ValueError("Fitting the mixture model failed")
        return mixture_of(rows, n_components, generator(0))

    monkeypatch.setattr("jkoflow.closing.mixture_of", failing)
    assert best_closing(drawn(clusters(2)), RUNTIME, SEARCH).n_components == 2


def two_rings(n: int, seed: int) -> torch.Tensor:
    """Rows around two circles, which no mixture of few components is."""
    source = generator(seed)
    angle = 2 * torch.pi * torch.rand(n, generator=source, dtype=torch.float64)
    radius = 1.0 + torch.randint(0, 2, (n, 1), generator=source)
    noise = torch.randn(n, 2, generator=source, dtype=torch.float64)
    return radius * torch.stack([angle.cos(), angle.sin()], dim=1) + 0.08 * noise


STACKED = Search(rows=3000, tolerance=1e-3, most_components=16, most_members=4)


def test_mean_of_mixtures_errs_less_than_one_of_them() -> None:
    state, fresh = state_of(two_rings(400, 1), two_rings(2000, 2)), two_rings(4000, 3)
    one = best_closing(state, RUNTIME, STACKED)
    several = stacked_closing(one, state, RUNTIME, STACKED)
    flows = [close(closing, state, RUNTIME)[0].flow for closing in (one, several)]
    gain = log_prob(flows[1], fresh) - log_prob(flows[0], fresh)
    assert several.nll < one.nll - 0.02
    assert float(gain.mean()) > 3 * float(gain.std()) / 4000**0.5
    assert several.n_components % one.n_components == 0
    assert several.n_components > one.n_components > 1


def test_one_mixture_stays_where_no_others_are_asked_for_or_none_help() -> None:
    state = drawn(clusters(4))
    closing = best_closing(state, RUNTIME, STACKED)
    assert stacked_closing(closing, state, RUNTIME, SEARCH) is closing
    assert stacked_closing(closing, state, RUNTIME, STACKED).nll > closing.nll - 0.01
    nothing = closing_by_nothing(state)
    assert stacked_closing(nothing, state, RUNTIME, STACKED) is nothing


def test_mean_has_no_more_components_than_are_affordable(monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_of(two_rings(400, 1), two_rings(2000, 2))
    one = best_closing(state, RUNTIME, STACKED)
    monkeypatch.setattr("jkoflow.closing._MOST_STACKED", 2 * one.n_components)
    assert stacked_closing(one, state, RUNTIME, STACKED).n_components <= 2 * one.n_components


def test_mean_of_what_was_found_stays_where_a_further_mixture_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_of(two_rings(400, 1), two_rings(2000, 2))
    one, calls = best_closing(state, RUNTIME, STACKED), 0

    def failing(*rest: object, **more: object) -> object:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise ValueError("covariance: expected a positive definite one")
        return mixture_of(*rest, **more)

    monkeypatch.setattr("jkoflow.closing.mixture_of", failing)
    several = stacked_closing(one, state, RUNTIME, STACKED)
    assert calls >= 2
    assert several.n_components == 2 * one.n_components
    assert several.nll < one.nll


def test_closing_whose_density_is_no_number_is_the_worst() -> None:
    assert Closing(None, 0, torch.tensor([1.0, float("nan")])).nll == float("inf")


def test_closing_by_nothing_is_the_flow_as_it_is() -> None:
    state = drawn(clusters(4))
    nothing = closing_by_nothing(state)
    assert (nothing.block, nothing.n_components) == (None, 0)
    assert nothing.nll == pytest.approx(state.nll)
    assert Closing(None, 0, torch.tensor([1.0, 3.0])).nll == -2


@pytest.mark.parametrize(
    ("number", "members", "expected"), [(16, 8, 7 * 16 + 8 * 32), (16, 1, 0), (8, 2, 8 + 2 * 16)]
)
def test_components_beside_a_first_mixture_are_counted(number: int, members: int, expected: int) -> None:
    search = Search(rows=1, tolerance=1e-3, most_components=256, most_members=members)
    assert stacked_components(number, search) == expected


def test_components_beside_a_large_mixture_end_at_the_limits() -> None:
    search = Search(rows=1, tolerance=1e-3, most_components=256, most_members=8)
    counted = [stacked_components(number, search) for number in (64, 128, 256, 512, 1024)]
    assert counted == [7 * 64 + 4 * 128, 3 * 128 + 2 * 256, 256, 0, 0]

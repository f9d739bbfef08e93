"""The closing step: which number of components held-out rows ask for, and what it makes of the flow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from jkoflow.blocks import AffineBlock, MixtureBlock
from jkoflow.flow import log_prob
from jkoflow.laws import GaussianMixture, StandardNormal
from jkoflow.methods.closing import ClosingSearch, closing_by_nothing, solution_of
from jkoflow.particles import Particles
from jkoflow.recipe import ClosingRules, Recipe, Search
from jkoflow.runtime import Runtime
from jkoflow.steps import Closing, State
from jkoflow.steps.gaussian import take_closed_form
from jkoflow.steps.mixture import mixture_of
from oracles.blocks import generator, points
from oracles.jobs import start_state

RUNTIME, RECIPE = Runtime(0, dtype=torch.float64), Recipe()
SEARCH = Search(rows=3000, tolerance=1e-3, most_components=16)


def clusters(n_clusters: int) -> GaussianMixture:
    angle = torch.arange(n_clusters, dtype=torch.float64) * 2 * torch.pi / n_clusters
    centres = 4 * torch.stack([angle.cos(), angle.sin()], dim=1)
    return GaussianMixture(torch.ones(n_clusters), centres, stds=0.4 * torch.ones(n_clusters))


def state_of(train: torch.Tensor, validation: torch.Tensor) -> State:
    return start_state(Particles(train), Particles(validation))


def search_of(state: State, search: Search = SEARCH, **rules: Any) -> ClosingSearch:
    return ClosingSearch(state, search, RUNTIME, replace(RECIPE, closing=ClosingRules(**rules)))


def best(state: State, search: Search = SEARCH, *, before: Closing | None = None, **rules: Any) -> Closing:
    return search_of(state, search, **rules).best(before)


def closed(closing: Closing, state: State) -> State:
    return take_closed_form(state, solution_of(closing), round_number=0)[0]


def drawn(law: GaussianMixture | StandardNormal, n: int = 3000) -> State:
    return state_of(law.sample(n, generator(1)), law.sample(1000, generator(2)))


def test_clusters_are_counted_and_the_closed_flow_is_their_law() -> None:
    law = clusters(4)
    state = drawn(law)
    closing = best(state)
    assert closing.n_components == 4
    after, step = take_closed_form(state, solution_of(closing), round_number=0)
    x = law.sample(500, generator(3))
    assert float((log_prob(after.flow, x) - law.log_prob(x)).abs().mean()) < 0.1
    assert after.nll == pytest.approx(closing.nll)
    assert (step.log["finished_on"], step.log["components"]) == ("closed_form", 4)
    assert (after.number, len(after.flow)) == (1, 1)
    assert float(after.train.x.square().mean()) == pytest.approx(1.0, abs=0.05)


def test_normal_rows_are_whitened_at_most() -> None:
    closing = best(drawn(StandardNormal(3)))
    assert closing.n_components <= 1
    scaled = state_of(3 * points(3000, 3), 3 * points(1000, 3, seed=5))
    assert isinstance(best(scaled).block, AffineBlock)


def test_few_rows_get_no_mixture() -> None:
    law = clusters(4)
    closing = best(drawn(law, n=30))
    assert closing.n_components <= 1


def test_search_stays_below_the_most_components() -> None:
    state = drawn(clusters(8))
    for most in (1, 2, 4, 16):
        search = Search(rows=3000, tolerance=1e-3, most_components=most)
        assert best(state, search).n_components <= most


def test_closing_is_carried_on_with_rows_that_have_moved() -> None:
    """EM starts at the optimum of the moved rows, where the block between is affine."""
    law = clusters(4)
    state = drawn(law)
    before = best(state)
    matrix = torch.tensor([[0.8, 0.3], [0.3, 1.1]], dtype=torch.float64)
    block = AffineBlock(dim=2, matrix=matrix)
    moved = state_of(block.push(state.train.x), block.push(state.validation.x))
    after = best(moved, before=before)
    shift = float(torch.linalg.slogdet(matrix)[1])
    assert after.n_components == 4
    assert after.nll == pytest.approx(before.nll + shift, abs=2e-3)


def test_with_a_context_the_mixture_is_one_given_it() -> None:
    """x = ±2c + noise: no mixture of x alone knows the sign's centres."""
    context = points(3000, 1, seed=3)
    sign = torch.where(points(3000, 1, seed=4) > 0.3, 1.0, -1.0)
    x = 2 * sign * context + 0.3 * points(3000, 1, seed=5)
    state = start_state(Particles(x[:2000], context[:2000]), Particles(x[2000:], context[2000:]))
    closing = best(state)
    assert isinstance(closing.block, MixtureBlock)
    assert closing.block.context_dim == 1
    blind = best(state_of(x[:2000], x[2000:]))
    assert closing.nll < blind.nll - 0.3


def test_columns_of_any_scale_have_the_same_closing() -> None:
    state = drawn(clusters(4))
    scale = torch.tensor([1e-3, 50.0], dtype=torch.float64)
    scaled = state_of(state.train.x * scale, state.validation.x * scale)
    one, other = best(state), best(scaled)
    assert other.n_components == one.n_components
    assert other.nll == pytest.approx(one.nll + float(scale.log().sum()), abs=1e-6)


def test_many_columns_leave_no_time_for_a_mixture() -> None:
    state = drawn(clusters(4))
    assert best(state, most_products=2.5 * 3000 * 2**2).n_components == 2
    assert best(state, most_products=1.5 * 3000 * 2**2).n_components <= 1


def test_mixture_that_is_not_found_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(rows: Particles, n_components: int, *rest: object, **more: object) -> object:
        if n_components > 2:
            raise ValueError("Fitting the mixture model failed")
        return mixture_of(rows, n_components, generator(0))

    monkeypatch.setattr("jkoflow.methods.closing.mixture_of", failing)
    assert best(drawn(clusters(2))).n_components == 2


EMPTY = state_of(torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64))


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
    one = best(state, STACKED)
    several = search_of(state, STACKED).stacked(one)
    flows = [closed(closing, state).flow for closing in (one, several)]
    gain = log_prob(flows[1], fresh) - log_prob(flows[0], fresh)
    assert several.nll < one.nll - 0.02
    assert float(gain.mean()) > 3 * float(gain.std()) / 4000**0.5
    assert several.n_components % one.n_components == 0
    assert several.n_components > one.n_components > 1


def test_one_mixture_stays_where_no_others_are_asked_for_or_none_help() -> None:
    state = drawn(clusters(4))
    closing = best(state, STACKED)
    assert search_of(state, SEARCH).stacked(closing) is closing
    assert search_of(state, STACKED).stacked(closing).nll > closing.nll - 0.01
    nothing = closing_by_nothing(state, RECIPE)
    assert search_of(state, STACKED).stacked(nothing) is nothing


def test_mean_has_no_more_components_than_are_affordable() -> None:
    state = state_of(two_rings(400, 1), two_rings(2000, 2))
    one = best(state, STACKED)
    most = 2 * one.n_components
    assert search_of(state, STACKED, most_together=most).stacked(one).n_components <= most


def test_mean_of_what_was_found_stays_where_a_further_mixture_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_of(two_rings(400, 1), two_rings(2000, 2))
    one, calls = best(state, STACKED), 0

    def failing(*rest: object, **more: object) -> object:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise ValueError("covariance: expected a positive definite one")
        return mixture_of(*rest, **more)

    monkeypatch.setattr("jkoflow.methods.closing.mixture_of", failing)
    several = search_of(state, STACKED).stacked(one)
    assert calls >= 2
    assert several.n_components == 2 * one.n_components
    assert several.nll < one.nll


def test_closing_whose_density_is_no_number_is_the_worst() -> None:
    rows = Particles(torch.zeros(2, 1))
    assert Closing.judged(None, 0, torch.tensor([1.0, float("nan")]), rows).nll == float("inf")
    assert Closing.judged(None, 0, torch.tensor([1.0, 3.0]), rows).nll == -2
    weighted = replace(rows, weight=torch.tensor([3.0, 1.0], dtype=torch.float64))
    assert Closing.judged(None, 0, torch.tensor([1.0, 3.0]), weighted).nll == -1.5


def test_closing_by_nothing_is_the_flow_as_it_is() -> None:
    state = drawn(clusters(4))
    nothing = closing_by_nothing(state, RECIPE)
    assert (nothing.block, nothing.n_components) == (None, 0)
    assert nothing.nll == pytest.approx(state.nll)


@pytest.mark.parametrize(
    ("number", "members", "expected"), [(16, 8, 7 * 16 + 8 * 32), (16, 1, 0), (8, 2, 8 + 2 * 16)]
)
def test_components_beside_a_first_mixture_are_counted(number: int, members: int, expected: int) -> None:
    search = Search(rows=1, tolerance=1e-3, most_components=256, most_members=members)
    assert search_of(EMPTY, search).stacked_components(number) == expected


def test_components_beside_a_large_mixture_end_at_the_limits() -> None:
    search = Search(rows=1, tolerance=1e-3, most_components=256, most_members=8)
    counted = [search_of(EMPTY, search).stacked_components(number) for number in (64, 128, 256, 512, 1024)]
    assert counted == [7 * 64 + 4 * 128, 3 * 128 + 2 * 256, 256, 0, 0]

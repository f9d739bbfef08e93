"""Autoregressive blocks: the density integrates to one, sees earlier columns alone, learns a known law."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from jkoflow.blocks.autoregressive import (
    AutoregressiveBlock,
    AutoregressiveFamily,
    AutoregressiveRules,
)
from jkoflow.blocks.autoregressive.network import groups_of
from jkoflow.errors import InputError
from jkoflow.functionals import KL
from jkoflow.laws import Background, GaussianMixture, StandardNormal
from jkoflow.particles import Particles
from jkoflow.recipe import DescentSettings
from jkoflow.runtime import Runtime
from jkoflow.steps.proximal import descend_on_objective
from jkoflow.steps.step import Step
from oracles.blocks import context_for, generator, make_block, mixture_numbers, points

NAMES = ["autoregressive", "autoregressive_context"]


def autoregressive(name: str, dim: int = 3) -> AutoregressiveBlock:
    block = make_block(name, dim=dim)
    assert isinstance(block, AutoregressiveBlock)
    return block


def by_column(block: AutoregressiveBlock, x: Tensor, context: Tensor | None) -> Tensor:
    return block.conditionals.log_prob_by_column(x[:, block.order], context)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_by_hand_are_those_of_automatic_differentiation(name: str) -> None:
    block = autoregressive(name, dim=4).requires_grad_(True)
    x, weights = points(20, 4), torch.randn(20, 4, generator=generator(), dtype=torch.float64)
    context, parameters = context_for(block, 20, torch.float64), list(block.parameters())
    by_hand = (by_column(block, x, context) * weights).sum()
    plain = (by_column(block, x.requires_grad_(), context) * weights).sum()
    torch.testing.assert_close(by_hand, plain)
    for found, expected in zip(
        torch.autograd.grad(by_hand, parameters), torch.autograd.grad(plain, parameters), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_column_depends_on_earlier_columns_alone(name: str) -> None:
    block = autoregressive(name, dim=5)
    x, context = points(6, 5), context_for(block, 6, torch.float64)
    before = by_column(block, x, context)
    for place in range(5):
        moved = x.clone()
        moved[:, block.order[place]] += 0.7
        changed = (by_column(block, moved, context) != before).any(dim=0)
        assert not changed[:place].any()
        assert changed[place:].any()


def test_density_integrates_to_one() -> None:
    block = autoregressive("autoregressive", dim=2)
    axis = torch.linspace(-15, 15, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    mass = block.source_log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert float(mass) == pytest.approx(1, abs=2e-3)  # of the grid and of the cut tails


@pytest.mark.parametrize("name", NAMES)
def test_draws_have_the_density(name: str) -> None:
    """E[exp(i w.x)] of draws is that of the density, by its values at draws of another law."""
    block, n = autoregressive(name, dim=2), 40_000
    context = context_for(block, 1, torch.float64)
    given = None if context is None else context.expand(n, -1)
    source = block.source(StandardNormal(2))
    assert source is not None
    drawn = source.draw(torch.randn(n, 2, generator=generator(3), dtype=torch.float64), given)
    other = GaussianMixture([1.0], [[0.0, 0.0]], stds=[3.0])
    proposed = other.sample(n, generator(4))
    weights = (source.log_prob(proposed, given) - other.log_prob(proposed)).exp()
    frequencies = torch.tensor([[0.5, 0.0], [0.3, -0.6], [0.0, 1.1]], dtype=torch.float64)
    for wave in (torch.cos, torch.sin):
        mean = wave(drawn @ frequencies.T).mean(dim=0)
        expected = (weights[:, None] * wave(proposed @ frequencies.T)).mean(dim=0)
        torch.testing.assert_close(mean, expected, atol=0.04, rtol=0)


def test_many_columns_are_told_in_groups_and_pulled_like_few() -> None:
    assert [(group.start, group.stop) for group in groups_of(130, 64, 0)] == [(0, 43), (43, 87), (87, 130)]
    block = autoregressive("autoregressive", dim=70)
    x = points(8, 70)
    found = block.invert(block.push(x))
    torch.testing.assert_close(found.x, x, atol=1e-6, rtol=0)
    assert float(found.error.max()) < 1e-9


def test_start_is_the_gaussian_where_the_rows_are_gaussian() -> None:
    """The regression is all there is to know there."""
    law = GaussianMixture([1.0], [[0.0, 0.0, 0.0]], covariances=mixture_numbers(1, 3, seed=1)[2])
    x = law.sample(4000, generator(1))
    family = AutoregressiveFamily(AutoregressiveRules(fixed=(0, 0)))
    block = family.new(Particles(x), math.inf, generator=generator(2))
    fresh = law.sample(4000, generator(3))
    with torch.no_grad():
        gap = float((law.log_prob(fresh) - block.source_log_prob(fresh)).mean())
    assert 0 < gap < 0.03


def test_descent_learns_a_mixture() -> None:
    law = GaussianMixture(*mixture_numbers(3, 2, seed=7)[:2], stds=[0.2, 0.3, 0.15])
    train, validation, fresh = (law.sample(n, generator(n)).float() for n in (4000, 500, 4001))
    family = AutoregressiveFamily(AutoregressiveRules(width=(32, 32), fixed=(8, 8), n_moving=2))
    step = Step(1, math.inf, Particles(train), Particles(validation), KL(StandardNormal(2)), Runtime(0))
    block = family.new(step.train, math.inf, generator=generator(0))

    def gap() -> float:
        with torch.no_grad():
            return float((law.log_prob(fresh.double()) - block.source_log_prob(fresh)).mean())

    before = gap()
    done = descend_on_objective(block, step, DescentSettings(150, 128, 1e-2, checkpoints=5), "auto")
    assert [made for made, _ in done.history] == [30, 60, 90, 120, 150]
    assert before > 0.3
    assert gap() < 0.1


def test_free_descent_sees_the_proximal_objective_itself() -> None:
    """-log p is V(T) - log|det dT| but for a constant, which descent from the map itself would see."""
    block, x = autoregressive("autoregressive"), points(30, 3)
    law = StandardNormal(3)
    image, log_det = block.push_with_log_det(x)
    source = block.source(law)
    assert source is not None
    value = KL(law).value_from_source(source, Particles(x))
    torch.testing.assert_close(value, law.potential(image) - log_det)


def test_values_unlike_any_seen_cost_their_own_column_alone() -> None:
    x = torch.randn(1000, 3, generator=generator(1), dtype=torch.float64)
    heavy = replace(Background(), widths=21)
    costs = []
    for background in (Background(), heavy):
        family = AutoregressiveFamily(background=background)
        block = family.new(Particles(x), math.inf, generator=generator(2))
        row = torch.tensor([[0.1, 0.2, 0.3], [0.1, 1e4, 0.3]], dtype=torch.float64)
        with torch.no_grad():
            usual, wild = block.source_log_prob(row)
        costs.append(float(usual - wild))
    assert costs[0] > 1e5
    assert costs[1] < 40


@pytest.mark.parametrize("tensor", ["network.first.weight", "regression", "whitening"])
def test_weights_that_see_a_later_column_are_refused(tensor: str) -> None:
    block = autoregressive("autoregressive")
    state = block.state_dict()
    state[f"conditionals.{tensor}"][0, 2] = 0.5
    block.load_state_dict(state)
    with pytest.raises(ValueError, match="expected zeros where a column must not be seen"):
        block.check_numbers()


def test_order_that_is_no_permutation_is_refused() -> None:
    block = autoregressive("autoregressive")
    block.order.copy_(torch.tensor([0, 0, 2]))
    with pytest.raises(ValueError, match="order: expected each column once"):
        block.check_numbers()


@pytest.mark.parametrize("options", [{"sizes": 3}, {"background": None}])
def test_options_of_another_kind_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match="block 'autoregressive'"):
        AutoregressiveFamily(**options)  # type: ignore[arg-type]

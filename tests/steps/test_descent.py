"""Stochastic descent: the published rate, averaged weights, the best of them kept, retries and their end."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from jkoflow.errors import NumericalError
from jkoflow.recipe import DescentSettings
from jkoflow.steps.descent import Descent, descend


class Weight(nn.Module):
    """One number."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor([value], dtype=torch.float64))

    @property
    def number(self) -> float:
        return float(self.value.detach())


def run(
    weight: Weight,
    loss: Callable[[], Tensor],
    evaluate: Callable[[], float],
    stop: Callable[[int], bool] = lambda update: False,
    **settings: object,
) -> Descent:
    options = {"updates": 100, "batch": 1, "learning_rate": 0.1, "checkpoints": 10, **settings}
    return descend(
        weight, loss=loss, evaluate=evaluate, settings=DescentSettings(**options), block=7, stop=stop
    )


def quadratic(weight: Weight) -> Callable[[], Tensor]:
    return lambda: (weight.value - 3).square().sum()


def test_minimum_is_found() -> None:
    weight = Weight()
    done = run(weight, quadratic(weight), lambda: (weight.number - 3) ** 2, updates=400)
    assert weight.number == pytest.approx(3, abs=0.01)
    assert done.first == 9
    assert done.best == pytest.approx((weight.number - 3) ** 2)
    assert done.retries == 0


@pytest.mark.parametrize("first", [math.nan, math.inf])
def test_a_start_whose_value_is_no_number_is_left(first: float) -> None:
    weight = Weight()
    values = itertools.chain([first], itertools.repeat(None))

    def evaluate() -> float:
        value = next(values)
        return (weight.number - 3) ** 2 if value is None else value

    done = run(weight, quadratic(weight), evaluate, updates=400)
    assert done.best_update > 0
    assert weight.number == pytest.approx(3, abs=0.01)


def test_rate_warms_up_and_falls_as_a_cosine() -> None:
    """Under a constant gradient an Adam step is the rate itself, so the path shows it."""
    weight, path = Weight(), []

    def loss() -> Tensor:
        path.append(weight.number)
        return weight.value.sum()

    run(weight, loss, lambda: -float(len(path)), updates=200, learning_rate=0.1)
    rates = [before - after for before, after in itertools.pairwise(path)]
    for i, rate in enumerate(rates):
        cosine = (1 + math.cos(math.pi * i / 200)) / 2
        expected = 0.1 * min(1, (i + 1) / 50) * (0.02 + 0.98 * cosine)
        assert rate == pytest.approx(expected, rel=1e-5)


def test_updates_are_those_of_adam_with_clipped_gradients() -> None:
    """Against torch's own Adam and clipping, over two layers."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    reference = copy.deepcopy(module)
    x = torch.randn(40, 2, dtype=torch.float64)
    scales = iter([1.0, 100.0] * 15)

    def loss_of(network: nn.Module, scale: float) -> Tensor:
        return scale * (network(x) - x.sum(dim=1, keepdim=True)).square().mean()

    def loss() -> Tensor:
        return loss_of(module, next(scales))

    judged = []

    def evaluate() -> float:
        judged.append(parameters_to_vector(module.parameters()).detach().clone())
        return -float(len(judged))

    descend(
        module, loss=loss, evaluate=evaluate, settings=DescentSettings(30, 1, 0.1, checkpoints=30), block=1
    )
    optimiser = torch.optim.Adam(reference.parameters(), lr=0.1)
    average = None
    for update in range(30):
        for group in optimiser.param_groups:
            cosine = (1 + math.cos(math.pi * update / 30)) / 2
            group["lr"] = 0.1 * (update + 1) / 50 * (0.02 + 0.98 * cosine)
        optimiser.zero_grad()
        loss_of(reference, [1.0, 100.0][update % 2]).backward()
        nn.utils.clip_grad_norm_(reference.parameters(), 5.0)
        optimiser.step()
        now = parameters_to_vector(reference.parameters()).detach()
        average = now.clone() if average is None else 0.98 * average + 0.02 * now
        torch.testing.assert_close(judged[update + 1], average, atol=1e-11, rtol=1e-9)


def test_weights_that_are_judged_and_kept_are_the_moving_average() -> None:
    weight, path, judged = Weight(), [], []

    def loss() -> Tensor:
        path.append(weight.number)
        return weight.value.sum()

    def evaluate() -> float:
        judged.append(weight.number)
        return weight.number

    run(weight, loss, evaluate, updates=20, checkpoints=2)
    path.append(path[-1])  # the last update is not seen by a loss
    average, expected = path[1], []
    for update in range(1, 21):
        if update > 1 and update < 20:
            average = 0.98 * average + 0.02 * path[update]
        if update == 10:
            expected.append(average)
    assert judged[0] == 0
    assert judged[1] == pytest.approx(expected[0], rel=1e-9)
    assert weight.number == judged[-1]


def test_best_weights_are_kept() -> None:
    weight, judged = Weight(), []
    values = iter([5.0, 4.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0])

    def evaluate() -> float:
        judged.append(weight.number)
        return next(values)

    done = run(weight, lambda: weight.value.sum(), evaluate, patience=100)
    assert (done.best, done.best_update, done.updates) == (1.0, 20, 100)
    assert weight.number == judged[2]


def test_start_is_kept_where_nothing_is_better() -> None:
    weight = Weight(2.0)
    done = run(weight, lambda: -weight.value.sum(), lambda: weight.number)
    assert weight.number == 2
    assert (done.best, done.best_update) == (2.0, 0)


def test_patience_ends_the_descent() -> None:
    weight = Weight()
    values = iter([5.0, 4.0, *[6.0] * 50])
    done = run(
        weight, lambda: weight.value.sum(), lambda: next(values), updates=200, checkpoints=20, patience=3
    )
    assert (done.updates, done.best_update) == (40, 10)


def test_stop_is_asked_at_checkpoints_only() -> None:
    weight, asked = Weight(), []

    def stop(update: int) -> bool:
        asked.append(update)
        return update == 40

    done = run(weight, quadratic(weight), lambda: (weight.number - 3) ** 2, stop, updates=100, checkpoints=10)
    assert asked == [10, 20, 30, 40]
    assert done.updates == 40


def test_diverging_descent_is_retried_at_a_smaller_rate() -> None:
    """At 0.3 of the rate before: the first step under a constant gradient is rate/50."""
    weight, path, calls = Weight(1.0), [], 0

    def loss() -> Tensor:
        nonlocal calls
        calls += 1
        path.append(weight.number)
        return weight.value.sum() * (math.nan if calls in (5, 15) else 1)

    done = run(weight, loss, lambda: weight.number)
    assert done.retries == 2
    assert math.isfinite(weight.number)
    steps = [path[i] - path[i + 1] for i in (0, 10, 20)]
    assert steps[1] / steps[0] == pytest.approx(0.3, rel=1e-3)
    assert steps[2] / steps[1] == pytest.approx(0.3, rel=1e-3)


def test_retry_starts_from_the_last_good_state() -> None:
    """What was best before the numbers left R is not lost: neither for the retry, nor for the result."""
    weight, path, judged = Weight(1.0), [], []

    def loss() -> Tensor:
        path.append(weight.number)
        return weight.value.sum() * (math.nan if len(path) == 35 else 1)

    def evaluate() -> float:
        judged.append(weight.number)
        return weight.number

    run(weight, loss, evaluate)
    assert path[40] == judged[3]  # update 30 is the last checkpoint before the NaN, which update 40 finds


def test_retry_that_finds_nothing_better_keeps_what_was_good() -> None:
    weight, calls = Weight(1.0), 0

    def loss() -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 40:
            return -weight.value.sum()  # the retry only makes it worse
        return weight.value.sum() * (math.nan if calls == 35 else 1)

    done = run(weight, loss, lambda: weight.number)
    assert weight.number < 0.9
    assert done.best == weight.number
    assert done.best_update == 30


@pytest.mark.parametrize("broken", ["loss", "held-out"])
def test_descent_that_always_diverges_fails_by_name(broken: str) -> None:
    weight, calls = Weight(1.0), 0

    def loss() -> Tensor:
        nonlocal calls
        calls += 1
        return weight.value.sum() * (math.nan if broken == "loss" else 1)

    def evaluate() -> float:
        return math.inf if broken == "held-out" and weight.number != 1 else weight.number

    with pytest.raises(NumericalError) as caught:
        run(weight, loss, evaluate, retries=3)
    assert calls == 40
    assert (caught.value.block, caught.value.step) == (7, 10)
    assert "diverged 4 times" in str(caught.value)
    assert "use a smaller gamma" in caught.value.remedy
    assert "\n" not in str(caught.value)
    assert weight.number == 1


def test_frozen_parameters_stay() -> None:
    module = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    module[0].requires_grad_(False)
    before = module[0].weight.clone()
    descend(
        module,
        loss=lambda: module(torch.ones(1, 1)).square().sum(),
        evaluate=lambda: float(module(torch.ones(1, 1)).detach().square().sum()),
        settings=DescentSettings(20, 1, 0.1),
        block=1,
    )
    assert torch.equal(module[0].weight, before)


def test_fewer_updates_than_checkpoints() -> None:
    weight = Weight()
    assert (
        run(weight, quadratic(weight), lambda: (weight.number - 3) ** 2, updates=3, checkpoints=20).updates
        == 3
    )

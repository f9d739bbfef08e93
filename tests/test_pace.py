"""Shares of a budget: how many updates each step gets, against a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jkoflow.budget import Decisions
from jkoflow.laws import StandardNormal
from jkoflow.pace import Pace, affordable_blocks
from jkoflow.particles import Particles
from jkoflow.pilot import Pilot
from jkoflow.runtime import Runtime
from jkoflow.step import Step
from oracles.blocks import points

ROWS, FEW = Particles(points(60_000, 2)), Particles(points(400, 2))


def step(number: int, rows: Particles = ROWS) -> Step:
    return Step(number, 1.0, rows, rows, StandardNormal(2), Runtime(seed=0))


def spend(
    budget: float,
    n_steps: int,
    *,
    limit: int = 10_000,
    beside: float = 0.0,
    finish: bool = False,
    **more: float,
) -> tuple[list[int], float]:
    """Updates of each step and the time left, where an update takes a hundredth of a second."""
    clock = [0.0]
    decisions = Decisions(budget=budget, clock=lambda: clock[0])
    pace = Pace(limit, n_steps, decisions, 0.01, **more)
    updates = []
    for number in range(1, n_steps + 1):
        updates.append(pace.updates(step(number)))
        clock[0] += updates[-1] * 0.01 * (1.5 if finish and updates[-1] >= limit else 1.0) + beside
    return updates, decisions.remaining()


def test_without_a_budget_each_step_has_the_limit() -> None:
    def clock() -> float:
        raise AssertionError("a clock was read")

    assert Pace(70, 3, Decisions(clock=clock), 0.01).updates(step(1)) == 70


@pytest.mark.parametrize("beside", [0.0, 1.0, 3.0])
def test_a_budget_is_used_and_kept_to(beside: float) -> None:
    updates, left = spend(100.0, 5, beside=beside)
    assert 0 <= left < 0.15 * 100
    assert max(updates) < 1.6 * min(updates)


def test_the_first_step_is_taken_to_cost_something_beside_its_updates() -> None:
    updates, _ = spend(100.0, 5, beside=0.0)
    assert updates[0] == int(100 * 20 * 0.7)


def test_a_reserve_is_left() -> None:
    _, left = spend(100.0, 5, beside=1.0, reserve=20.0)
    assert 20 <= left < 35


def test_a_small_table_is_not_learned_by_heart() -> None:
    """400 rows in batches of 128: 468 updates are 150 epochs."""
    decisions = Decisions(budget=1e4, clock=lambda: 0.0)
    assert Pace(280, 2, decisions, 0.01).updates(step(1, FEW)) == 468
    assert Pace(600, 2, decisions, 0.01).updates(step(2, FEW)) == 600


def test_early_steps_get_more_where_they_are_worth_more() -> None:
    updates, left = spend(100.0, 5, beside=0.5, first_share=1.5)
    assert 0 <= left < 15
    assert updates[1] > 1.2 * updates[3]


def test_time_is_held_back_for_the_checks_of_a_last_step() -> None:
    updates = {}
    for checks in (0, 2):
        clock = [0.0]
        pace = Pace(10_000, 2, Decisions(budget=100.0, clock=lambda: clock[0]), 0.01, last_checks=checks)  # noqa: B023  # called at once
        pace.updates(step(1))
        clock[0] = 40.0
        updates[checks] = pace.updates(step(2))
    assert updates[2] < updates[0]


def test_no_updates_when_the_time_is_up() -> None:
    clock = [0.0]
    pace = Pace(100, 3, Decisions(budget=10.0, clock=lambda: clock[0]), 0.01, reserve=4.0)
    clock[0] = 6.0
    assert pace.updates(step(1)) == 0


def test_a_finish_is_paid_for_from_the_limit_on() -> None:
    """Without a finish 100 seconds are used by 10,000 updates; with it by two thirds of them."""
    updates, left = spend(100.0, 5, limit=500, finish=True, finishes=True)
    assert min(updates) > 500
    assert 0 <= left < 15
    just_short, _ = spend(100.0, 5, limit=1900, finishes=True)
    assert max(just_short[:4]) < 1900


def test_a_step_that_ended_early_says_nothing_of_what_steps_cost_beside() -> None:
    clock = [0.0]
    pace = Pace(10_000, 3, Decisions(budget=90.0, clock=lambda: clock[0]), 0.01)
    pace.updates(step(1))
    clock[0] = 1.0
    assert pace.updates(step(2)) == pytest.approx(89 / 2 * 100 * 0.7, abs=2)


@pytest.mark.parametrize(("remaining", "blocks"), [(1e-3, 3), (100.0, 5), (1e6, 9)])
def test_as_many_blocks_as_the_budget_trains_well(remaining: float, blocks: int) -> None:
    for most in (9, 2):
        decisions = Decisions(budget=remaining, clock=lambda: 0.0)
        assert affordable_blocks(most, 10**6, Pilot(False, "even", 0.01), decisions) == min(most, blocks)


def test_small_tables_get_more_blocks_since_they_need_fewer_updates() -> None:
    """400 rows need 280 updates: 28 seconds pay for ten blocks, and no more than are wanted."""
    for most, blocks in ((20, 10), (6, 6)):
        decisions = Decisions(budget=28.001, clock=lambda: 0.0)
        assert affordable_blocks(most, 400, Pilot(False, "even", 0.01), decisions) == blocks


def test_a_further_pass_may_have_a_single_block() -> None:
    decisions = Decisions(budget=1e-3, clock=lambda: 0.0)
    assert affordable_blocks(9, 10**6, Pilot(False, "even", 0.01), decisions, round_number=1) == 1


def test_without_a_budget_all_blocks() -> None:
    forbidden: Callable[[], float] = lambda: 1 / 0  # noqa: E731  # a clock that must not be read
    assert affordable_blocks(9, 10**6, Pilot(False, "even", 0.0), Decisions(clock=forbidden)) == 9

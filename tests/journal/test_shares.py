"""Shares of a budget: how many updates each step gets, against a clock that the test moves."""

from __future__ import annotations

import pytest

from jkoflow.journal import Journal, UpdateShares
from jkoflow.recipe import BudgetRules

RULES, EPOCH, FEW = BudgetRules(), 60_000 / 384, 400 / 128


def shares(
    limit: int, last_step: int, journal: Journal, seconds: float, epoch: float = EPOCH, **more: float
) -> UpdateShares:
    return UpdateShares(journal, RULES, limit, last_step, seconds, epoch, **more)


def spend(
    budget: float,
    last_step: int,
    *,
    limit: int = 10_000,
    beside: float = 0.0,
    finish: bool = False,
    **more: float,
) -> tuple[list[int], float]:
    """Updates of each step and the time left, where an update takes a hundredth of a second."""
    clock = [0.0]
    journal = Journal(budget=budget, clock=lambda: clock[0])
    pace = shares(limit, last_step, journal, 0.01, **more)
    updates = []
    for number in range(1, last_step + 1):
        updates.append(pace.updates(number, 0))
        clock[0] += updates[-1] * 0.01 * (1.5 if finish and pace.are_finished(updates[-1]) else 1.0) + beside
    return updates, journal.remaining()


def test_without_a_budget_each_step_has_the_limit() -> None:
    def clock() -> float:
        raise AssertionError("a clock was read")

    assert shares(70, 3, Journal(clock=clock), 0.01).updates(1, 0) == 70


@pytest.mark.parametrize("beside", [0.0, 1.0, 3.0])
def test_a_budget_is_used_and_kept_to(beside: float) -> None:
    updates, left = spend(100.0, 5, beside=beside)
    assert 0 <= left < 0.15 * 100
    assert max(updates) < 1.6 * min(updates)


def test_the_first_step_is_taken_to_cost_something_beside_its_updates() -> None:
    updates, _ = spend(100.0, 5, beside=0.0)
    assert updates[0] == int(100 * 20 * 0.7)


def test_a_reserve_is_left() -> None:
    _, left = spend(100.0, 5, beside=1.0, reserve=0.2)
    assert 20 <= left < 35


def test_a_small_table_is_not_learned_by_heart() -> None:
    """400 rows in batches of 128: 468 updates are 150 epochs."""
    journal = Journal(budget=1e4, clock=lambda: 0.0)
    assert shares(280, 2, journal, 0.01, FEW).updates(1, 0) == 468
    assert shares(600, 2, journal, 0.01, FEW).updates(2, 0) == 600


def test_early_steps_get_more_where_they_are_worth_more() -> None:
    updates, left = spend(100.0, 5, beside=0.5, first_share=1.5)
    assert 0 <= left < 15
    assert updates[1] > 1.2 * updates[3]


def test_time_is_held_back_for_the_checks_of_a_last_step() -> None:
    updates = {}
    for checks in (0, 2):
        clock = [0.0]
        pace = shares(10_000, 2, Journal(budget=100.0, clock=lambda: clock[0]), 0.01, last_checks=checks)  # noqa: B023  # called at once
        pace.updates(1, 0)
        clock[0] = 40.0
        updates[checks] = pace.updates(2, 0)
    assert updates[2] < updates[0]


def test_no_updates_when_the_time_is_up() -> None:
    clock = [0.0]
    pace = shares(100, 3, Journal(budget=10.0, clock=lambda: clock[0]), 0.01, reserve=0.4)
    clock[0] = 6.0
    assert pace.updates(1, 0) == 0


def test_a_finish_is_paid_for_from_the_limit_on() -> None:
    """Without a finish 100 seconds are used by 10,000 updates; with it by two thirds of them."""
    updates, left = spend(100.0, 5, limit=500, finish=True, finish_cost=1.5)
    assert min(updates) > 500
    assert 0 <= left < 15
    just_short, _ = spend(100.0, 5, limit=1900, finish_cost=1.5)
    assert max(just_short[:4]) < 1900


def test_a_step_that_ended_early_says_nothing_of_what_steps_cost_beside() -> None:
    clock = [0.0]
    pace = shares(10_000, 3, Journal(budget=90.0, clock=lambda: clock[0]), 0.01)
    pace.updates(1, 0)
    clock[0] = 1.0
    assert pace.updates(2, 0) == pytest.approx(89 / 2 * 100 * 0.7, abs=2)

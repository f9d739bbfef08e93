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


def test_a_block_is_begun_where_there_is_time_for_a_hundred_updates() -> None:
    """A second for each block, of the six that are not held back; once told it stays."""
    clock, decided = [0.0], list[dict[str, object]]()
    journal = Journal(budget=10.0, clock=lambda: clock[0], write=decided.append)
    pace = shares(100, 3, journal, 0.01, reserve=0.4)
    clock[0] = 4.9
    assert pace.has_time(1, 0)
    clock[0] = 5.1
    assert pace.has_time(1, 0)
    assert not pace.has_time(2, 0)
    assert not Journal(budget=1e9, decisions=decided, clock=lambda: 0.0).decide(
        "time for a block", lambda: True, block=2, round=0
    )
    clock[0] = 3.9
    assert pace.has_time(3, 0, steps=2)
    assert not shares(100, 3, journal, 0.01, reserve=0.4).has_time(4, 0, steps=9)


def test_a_block_whose_updates_are_on_record_was_begun() -> None:
    """Runs of earlier versions have no decision on its time."""
    log = [{"kind": "decision", "what": "updates", "block": 2, "round": 0, "value": 70}]
    pace = shares(100, 3, Journal(budget=1.0, decisions=log, clock=lambda: 0.0, spent=5.0), 0.01)
    assert pace.has_time(2, 0)
    assert not pace.has_time(3, 0)


def test_a_block_that_is_begun_has_updates_whatever_is_left() -> None:
    journal = Journal(budget=1.0, clock=lambda: 0.0, spent=5.0)
    assert shares(100, 3, journal, 0.01).updates(3, 0, last=True) == RULES.updates[0]


def test_last_step_gets_all_that_is_left_whatever_was_planned() -> None:
    journal = Journal(budget=100.0, clock=lambda: 0.0)
    early = shares(10_000, 10, journal, 0.01).updates(2, 0, last=True)
    assert early == shares(10_000, 2, journal, 0.01).updates(2, 1)


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

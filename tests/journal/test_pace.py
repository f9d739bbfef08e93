"""CPU-seconds of an update between two checks."""

from __future__ import annotations

import pytest

from jkoflow.journal import Journal, Pace


def paced(ticks: list[float], **options: float) -> Pace:
    """A pace whose clock shows these times, one at each look."""
    left = iter([0.0, *ticks])
    return Pace(Journal(clock=lambda: next(left), **options), 0.5)


def test_updates_are_timed_between_checks_without_them() -> None:
    """The first ten cost a second more; then ten updates of 0.1 and a check of 0.5 each."""
    pace = paced([0.0, 0.0, 2.5, 4.0, 5.5], budget=100.0)
    for updates in (10, 20, 30):
        assert not pace.is_over(updates)
    assert pace.seconds_an_update(0.5, least_share=0.1) == pytest.approx(0.1)
    assert pace.seconds_an_update(9.0, least_share=0.1) == pytest.approx(0.015)


def test_one_check_is_better_than_none() -> None:
    pace = paced([0.0, 0.0, 2.5], budget=100.0)
    assert not pace.is_over(10)
    assert pace.seconds_an_update(0.5, least_share=0.1) == pytest.approx(0.2)


def test_the_share_is_of_what_was_left() -> None:
    pace = paced([10.0, 10.0, 50.0, 56.0], budget=100.0)
    assert [pace.is_over(updates) for updates in (1, 2)] == [False, True]


def test_without_a_budget_no_clock_is_read() -> None:
    pace = paced([])
    assert not pace.is_over(10)
    assert pace.seconds_an_update(0.5, least_share=0.1) == 0

"""Decisions: recorded before they take effect, replayed on resuming, and no clock without a budget."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest

from jkoflow.budget import Decisions
from jkoflow.errors import InputError


def forbidden_clock() -> float:
    raise AssertionError("a clock was read")


class Clock:
    """A clock that the test sets."""

    def __init__(self, now: float = 100.0) -> None:
        self.now, self.reads = now, 0

    def __call__(self) -> float:
        self.reads += 1
        return self.now


def test_without_a_budget_no_clock_is_read() -> None:
    decisions = Decisions(clock=forbidden_clock)
    assert not decisions.limited
    assert decisions.remaining() == math.inf
    assert not decisions.stop_at(1)("proximal", 10_000)
    assert decisions.decide("pilot", lambda: 3) == 3


def test_budget_counts_from_the_start_and_adds_what_was_spent() -> None:
    clock = Clock()
    decisions = Decisions(budget=10, spent=4, clock=clock)
    assert decisions.remaining() == 6
    clock.now += 2.5
    assert decisions.used() == 6.5
    assert decisions.remaining() == 3.5


@pytest.mark.parametrize("budget", [0, -1, math.nan])
def test_budget_must_be_positive(budget: float) -> None:
    with pytest.raises(InputError, match="budget: expected CPU-seconds > 0"):
        Decisions(budget=budget)


def test_decision_is_recorded_before_it_takes_effect() -> None:
    order: list[str] = []
    decisions = Decisions(record=lambda entry: order.append(f"recorded {entry['value']}"))
    order.append(f"used {decisions.decide('updates', lambda: 70, block=2, round=0)}")
    assert order == ["recorded 70", "used 70"]


def test_decision_that_could_not_be_recorded_does_not_take_effect() -> None:
    def full_disk(entry: dict[str, object]) -> None:
        raise OSError("no space left")

    decisions = Decisions(record=full_disk)
    for _ in range(2):
        with pytest.raises(OSError, match="no space"):
            decisions.decide("updates", lambda: 70, block=1)


def test_decision_is_taken_and_recorded_once() -> None:
    log: list[dict[str, object]] = []
    decisions = Decisions(record=log.append)
    values = iter([1, 2, 3])
    assert [decisions.decide("updates", lambda: next(values), block=1) for _ in range(2)] == [1, 1]
    assert decisions.decide("updates", lambda: next(values), block=2) == 2
    assert log == [
        {"kind": "decision", "what": "updates", "block": 1, "value": 1},
        {"kind": "decision", "what": "updates", "block": 2, "value": 2},
    ]


def test_recorded_decisions_are_replayed_through_json() -> None:
    log: list[dict[str, object]] = []
    Decisions(record=log.append).decide("pilot", lambda: {"affine_first": True, "phase": 1.0})
    written = [json.loads(json.dumps({"format": "jkoflow/1", **entry})) for entry in log]

    def never() -> None:
        raise AssertionError("computed again")

    again = Decisions(recorded=written, record=lambda entry: never())
    assert again.decide("pilot", never) == {"affine_first": True, "phase": 1.0}


def stopping(clock: Clock, log: list[dict[str, object]], **options: object) -> Callable[[str, int], bool]:
    return Decisions(budget=10, clock=clock, record=log.append, **options).stop_at(3, 1)


STOPPED = {
    "kind": "decision",
    "what": "stop proximal after updates",
    "block": 3,
    "round": 1,
    "value": 200,
}


def test_descent_stops_when_the_budget_is_spent_and_says_so_first() -> None:
    clock, log = Clock(), []
    stop = stopping(clock, log)
    assert not stop("proximal", 100)
    assert log == []
    clock.now += 11
    assert stop("proximal", 200)
    assert log == [STOPPED]


def test_recorded_stop_is_replayed_whatever_the_clock_says() -> None:
    clock, log = Clock(), []
    stop = stopping(clock, log)
    clock.now += 11
    assert stop("proximal", 200)
    resumed = stopping(Clock(), [], recorded=log)
    assert [resumed("proximal", updates) for updates in (100, 200)] == [False, True]


def test_a_slower_resume_does_not_stop_before_the_recorded_update() -> None:
    """What is on record happened at update 200; a clock that has run out by 100 must not change that."""
    resumed = stopping(Clock(), [], recorded=[STOPPED], spent=50.0)
    assert [resumed("proximal", updates) for updates in (100, 200)] == [False, True]


def test_stop_of_one_phase_or_block_does_not_stop_another() -> None:
    clock, log = Clock(), []
    decisions = Decisions(budget=10, clock=clock, record=log.append)
    clock.now += 11
    assert decisions.stop_at(3)("warm_start", 50)
    clock.now -= 11
    assert not decisions.stop_at(3)("proximal", 50)
    assert not decisions.stop_at(4)("warm_start", 50)
    assert not decisions.stop_at(3, 1)("warm_start", 50)

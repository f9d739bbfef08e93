"""The journal: recorded before it takes effect, replayed on resuming, and no clock without a budget."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest

from jkoflow.blocks import AffineBlock
from jkoflow.errors import InputError, RunFolderError
from jkoflow.journal import Journal, Solution, Taken
from oracles.worlds import ThreadWorld, run_together


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
    journal = Journal(clock=forbidden_clock)
    assert not journal.limited
    assert journal.remaining() == math.inf
    assert not journal.stop_at(1)("proximal", 10_000)
    assert journal.decide("pilot", lambda: 3) == 3


def test_budget_counts_from_the_start_and_adds_what_was_spent() -> None:
    clock = Clock()
    journal = Journal(budget=10, spent=4, clock=clock)
    assert journal.remaining() == 6
    clock.now += 2.5
    assert journal.used() == 6.5
    assert journal.remaining() == 3.5


@pytest.mark.parametrize("budget", [0, -1, math.nan])
def test_budget_must_be_positive(budget: float) -> None:
    with pytest.raises(InputError, match="budget: expected CPU-seconds > 0"):
        Journal(budget=budget)


def test_decision_is_recorded_before_it_takes_effect() -> None:
    order: list[str] = []
    journal = Journal(write=lambda entry: order.append(f"recorded {entry['value']}"))
    order.append(f"used {journal.decide('updates', lambda: 70, block=2, round=0)}")
    assert order == ["recorded 70", "used 70"]


def test_decision_that_could_not_be_recorded_does_not_take_effect() -> None:
    def full_disk(entry: dict[str, object]) -> None:
        raise OSError("no space left")

    journal = Journal(write=full_disk)
    for _ in range(2):
        with pytest.raises(OSError, match="no space"):
            journal.decide("updates", lambda: 70, block=1)


def test_decision_is_taken_and_recorded_once() -> None:
    log: list[dict[str, object]] = []
    journal = Journal(write=log.append)
    values = iter([1, 2, 3])
    assert [journal.decide("updates", lambda: next(values), block=1) for _ in range(2)] == [1, 1]
    assert journal.decide("updates", lambda: next(values), block=2) == 2
    assert log == [
        {"kind": "decision", "what": "updates", "block": 1, "value": 1},
        {"kind": "decision", "what": "updates", "block": 2, "value": 2},
    ]


def test_recorded_decisions_are_replayed_through_json() -> None:
    log: list[dict[str, object]] = []
    Journal(write=log.append).decide("pilot", lambda: {"affine_first": True, "phase": 1.0})
    written = [json.loads(json.dumps({"format": "jkoflow/1", **entry})) for entry in log]

    def never() -> None:
        raise AssertionError("computed again")

    again = Journal(decisions=written, write=lambda entry: never())
    assert again.decide("pilot", never) == {"affine_first": True, "phase": 1.0}


def stopping(clock: Clock, log: list[dict[str, object]], **options: object) -> Callable[[str, int], bool]:
    return Journal(budget=10, clock=clock, write=log.append, **options).stop_at(3, 1)


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
    resumed = stopping(Clock(), [], decisions=log)
    assert [resumed("proximal", updates) for updates in (100, 200)] == [False, True]


def test_a_slower_resume_does_not_stop_before_the_recorded_update() -> None:
    """What is on record happened at update 200; a clock that has run out by 100 must not change that."""
    resumed = stopping(Clock(), [], decisions=[STOPPED], spent=50.0)
    assert [resumed("proximal", updates) for updates in (100, 200)] == [False, True]


def test_stop_of_one_phase_or_block_does_not_stop_another() -> None:
    clock, log = Clock(), []
    journal = Journal(budget=10, clock=clock, write=log.append)
    clock.now += 11
    assert journal.stop_at(3)("warm_start", 50)
    clock.now -= 11
    assert not journal.stop_at(3)("proximal", 50)
    assert not journal.stop_at(4)("warm_start", 50)
    assert not journal.stop_at(3, 1)("warm_start", 50)


# ── steps ──


def taken(number: int, round_number: int = 0) -> Taken:
    return Taken(number, round_number, AffineBlock(dim=1), {"who": "stored"})


def take(solution: Solution) -> tuple[str, Taken]:
    return f"after {solution.log['who']}", Taken(1, 0, solution.block, solution.log)


def never() -> Solution:
    raise AssertionError("solved again")


def test_step_is_solved_taken_and_told() -> None:
    told: list[tuple[object, Taken, bool]] = []
    journal = Journal(observe=lambda state, step, *, replayed: told.append((state, step, replayed)))
    found = Solution(AffineBlock(dim=1), {"who": "solved"})
    assert journal.step(1, 0, solve=lambda: found, take=take) == "after solved"
    assert [(state, step.block is found.block, replayed) for state, step, replayed in told] == [
        ("after solved", True, False)
    ]


def test_step_on_record_is_not_solved_again() -> None:
    told: list[bool] = []
    journal = Journal(steps=[taken(1)], observe=lambda state, step, *, replayed: told.append(replayed))
    assert journal.has_step(1, 0)
    assert journal.has_step(1, -1) is False
    assert journal.step(1, 0, solve=never, take=take) == "after stored"
    assert told == [True]
    assert journal.has_step(2, 0) is None


@pytest.mark.parametrize(("number", "round_number"), [(2, 0), (1, 1)])
def test_another_step_on_record_is_refused(number: int, round_number: int) -> None:
    """A record of another version, whose method took other steps, is told by number and round."""
    journal = Journal(steps=[taken(number, round_number)])
    with pytest.raises(RunFolderError, match=r"expected block 1 of round 0 next, got block .* --overwrite"):
        journal.step(1, 0, solve=never, take=take)


# ── what a budget allows ──


def test_work_is_timed_under_a_budget_alone() -> None:
    assert Journal(clock=forbidden_clock).timed(lambda: "done") == ("done", 0.0)
    clock = Clock()

    def work() -> str:
        clock.now += 2
        return "done"

    assert Journal(budget=10, clock=clock).timed(work) == ("done", 2.0)


def test_a_number_is_halved_until_its_cost_fits_a_share_of_the_time_left() -> None:
    log: list[dict[str, object]] = []
    journal = Journal(budget=10, clock=Clock(), write=log.append)
    assert journal.afford("components", 64, lambda number: number * 1.0, share=0.5, round=1) == 4
    assert log == [{"kind": "decision", "what": "components", "round": 1, "value": 4}]
    assert journal.afford("members", 8, lambda number: 1e9) == 1, "one is left in any case"
    assert Journal(clock=forbidden_clock).afford("components", 64, lambda number: 1e9) == 64


def test_deadline_is_a_share_of_what_is_left_when_it_is_set() -> None:
    clock = Clock()
    journal = Journal(budget=10, spent=2, clock=clock)
    late = journal.deadline(0.5)
    for seconds, expected in ((3.9, False), (0.2, True)):
        clock.now += seconds
        assert late() is expected
    assert Journal(clock=forbidden_clock).deadline(0.1)() is False


def test_how_many_pieces_of_work_fit() -> None:
    journal = Journal(budget=10, spent=4, clock=Clock())
    assert journal.how_many(0.5, (1, 100), share=0.5) == 6
    assert journal.how_many(0.5, (8, 100), share=0.5) == 8
    assert journal.how_many(0.5, (1, 5), share=0.5) == 5
    assert journal.how_many(0.5, (9, 5)) == 5
    assert Journal(clock=forbidden_clock).how_many(0.5, (1, 100)) == 100


@pytest.mark.parametrize(("spent", "expected"), [(6.9, True), (7.1, False)])
def test_what_is_left_beside_a_share_of_the_whole(spent: float, expected: bool) -> None:
    assert Journal(budget=10, spent=spent, clock=Clock()).leaves(0.1, beside=2.0) is expected
    assert Journal(clock=forbidden_clock).leaves(0.1, beside=2.0)


# ── what comes after a descent, and after the last step ──


def test_what_follows_the_last_step_is_held_back() -> None:
    """A rehearsal that takes a second, of which there will be five, leaves 100 - 3 - 5 of 100."""
    clock = [0.0]

    def rehearse(state: object) -> float:
        clock[0] += 1.0
        return 5.0

    journal = Journal(budget=100.0, clock=lambda: clock[0], rehearse=rehearse)
    clock[0] = 2.0
    assert journal.remaining() == 98
    journal.look_ahead(None)
    assert (journal.after_last, journal.remaining()) == (5, 92)


def test_nothing_is_rehearsed_without_a_budget() -> None:
    def rehearse(state: object) -> float:
        raise AssertionError("rehearsed")

    Journal(rehearse=rehearse, clock=lambda: 1 / 0).look_ahead(None)


def test_a_descent_ends_while_there_is_time_for_what_followed_the_one_before() -> None:
    """The first step takes 10 s after its last checkpoint; the second descent ends 10 s before the end."""
    clock = [0.0]
    journal = Journal(budget=100.0, clock=lambda: clock[0])

    def solve() -> Solution:
        clock[0] = 50.0
        assert not journal.stop_at(1)("proximal", 7)
        clock[0] = 60.0
        return Solution(None)

    journal.step(1, 0, solve=solve, take=lambda solution: (None, Taken(1, 0, None)))
    assert journal.after_descent == 10
    stop = journal.stop_at(2)
    clock[0] = 89.0
    assert not stop("proximal", 3)
    clock[0] = 90.0
    assert stop("proximal", 4)


def test_the_clock_of_the_first_process_is_that_of_all_and_a_decision_is_written_once() -> None:
    log: list[dict[str, object]] = []

    def decided(world: ThreadWorld) -> tuple[object, ...]:
        clock = Clock()
        journal = Journal(budget=10, write=log.append, world=world, clock=clock)
        clock.now += 1 + world.rank
        _, seconds = journal.timed(lambda: setattr(clock, "now", clock.now + 2 + world.rank))
        decision = journal.decide("updates", lambda: 70 + world.rank, block=1)
        return journal.used(), seconds, journal.deadline(0.5)(), journal.stop_at(1)("phase", 5), decision

    assert run_together(2, decided) == [(3.0, 2.0, False, False, 70)] * 2
    assert [entry["value"] for entry in log] == [70]

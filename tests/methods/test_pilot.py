"""What the pilot chooses, what it costs, and what it does when its time is up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from jkoflow.config import Settings
from jkoflow.journal import Journal
from jkoflow.methods import Job, pilot
from jkoflow.methods.pilot import Pilot, choose_by_pilot, timed_pilot
from jkoflow.particles import Particles
from jkoflow.recipe import DescentSettings
from jkoflow.steps import State, solvers
from jkoflow.steps.descent import Descent
from oracles.blocks import points
from oracles.jobs import job_of, start_state
from oracles.quick_training import quick_recipe

RECIPE = quick_recipe()
FEATURES = tuple(RECIPE.network.features)


def job(journal: Journal | None = None) -> Job:
    return job_of(Settings(max_blocks=3), journal or Journal(), RECIPE)


def chosen(**options: Any) -> Pilot:
    return choose_by_pilot(correlated_state(), job(), **{"updates": 40, "gaussian_first": True, **options})


def correlated_state(n: int = 400) -> State:
    """Nearly singular normal rows: whitening is all there is to do."""
    mixing = torch.tensor([[1.0, 0.99], [0.0, 0.05]])
    train, held_out = (
        Particles(points(rows, 2, torch.float32, seed=s) @ mixing) for rows, s in ((n, 1), (n, 2))
    )
    return start_state(train, held_out)


def test_gaussian_rows_are_whitened_first() -> None:
    choice = chosen()
    assert choice.affine_first
    assert choice.features in FEATURES
    assert chosen() == choice


@pytest.mark.parametrize("answers", [0, 2])
def test_without_time_the_gaussian_step_and_the_first_features_are_taken(answers: int) -> None:
    """A fit that is cut off counts for nothing, however good it was until then."""
    asked = iter([False] * answers)
    choice = chosen(out_of_time=lambda: next(asked, True))
    assert (choice.affine_first, choice.features) == (True, "coarse")


def test_smallest_nll_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up values: without the Gaussian step it is better, and then the third features are best."""
    values = {(True, "coarse"): 3.0, (False, "coarse"): 2.0}
    values |= {(False, "even"): 2.5, (False, "fine"): 1.0, (False, "finest"): 1.5}
    seen = []

    def nll(start: State, job: Job, variant: str, *rest: object) -> float:
        seen.append((len(start.flow) == 1, variant))
        return values[seen[-1]]

    monkeypatch.setattr(pilot, "_pilot_nll", nll)
    choice = chosen()
    assert (choice.affine_first, choice.features) == (False, "fine")
    assert sorted(seen) == sorted(values), "each choice is tried once"


def test_where_the_flow_will_be_closed_only_features_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pilot, "best_whitening", None)
    assert not chosen(gaussian_first=False).affine_first


def forbidden_clock() -> float:
    raise AssertionError("a clock was read")


def timed(clock: Callable[[], float], budget: float | None) -> tuple[dict[str, Any], Journal]:
    journal = Journal(budget=budget, clock=clock)
    return timed_pilot(correlated_state(), job(journal), gaussian_first=False), journal


def test_without_a_budget_no_clock_is_read() -> None:
    record, _ = timed(forbidden_clock, None)
    assert record["seconds"] == 0.0


def test_under_a_budget_the_search_has_a_quarter() -> None:
    """The clock ticks at every look: two for each of seven rehearsals, one for a fit that is cut off."""
    times = iter(range(10_000))
    _, journal = timed(lambda: float(next(times)), 40.0)
    assert journal.used() < 40 * 0.25 * 1.6 + 14 + 2 * len(FEATURES) + 4


def test_an_update_is_timed_without_what_surrounds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts take 7 seconds each and half a second for an update; the third of them is interrupted."""
    clock, starts = [0.0], [0]

    def regress(velocity: object, step: object, settings: DescentSettings, path: object) -> Descent:
        starts[0] += 1
        clock[0] += 7 + settings.updates / 2 + 100 * (starts[0] == 3)
        return Descent(settings.updates, settings.updates, 1.0, 1.0, 0)

    monkeypatch.setattr(solvers, "regress", regress)
    monkeypatch.setattr(pilot, "choose_by_pilot", lambda *of, **rest: Pilot(False, "even", 0.0))
    record, _ = timed(lambda: clock[0], 1e6)
    assert record["seconds"] == pytest.approx(0.5)

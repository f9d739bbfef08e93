"""What the pilot chooses, what it costs, and what it does when its time is up."""

from __future__ import annotations

import pytest
import torch

from jkoflow import pilot, proximal
from jkoflow.budget import Decisions
from jkoflow.config import Settings
from jkoflow.descent import Descent, DescentSettings
from jkoflow.fit import FitState, initial_state
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles
from jkoflow.pilot import Pilot, choose_by_pilot, timed_pilot
from jkoflow.recipe import FEATURES
from jkoflow.runtime import Runtime
from oracles.blocks import points
from oracles.quick_training import make_training_quick

RUNTIME, SETTINGS = Runtime(0), Settings(max_blocks=3)
GIVEN = Settings(max_blocks=3, gamma=0.5)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_training_quick(monkeypatch)


def correlated_state(n: int = 400) -> FitState:
    """Nearly singular normal rows: whitening is all there is to do."""
    mixing = torch.tensor([[1.0, 0.99], [0.0, 0.05]])
    train, held_out = (
        Particles(points(rows, 2, torch.float32, seed=s) @ mixing) for rows, s in ((n, 1), (n, 2))
    )
    return initial_state(StandardNormal(2), train, held_out)


def test_gaussian_rows_are_whitened_first() -> None:
    choice = choose_by_pilot(correlated_state(), GIVEN, RUNTIME, updates=40)
    assert choice.affine_first
    assert choice.features in FEATURES
    assert choose_by_pilot(correlated_state(), GIVEN, RUNTIME, updates=40) == choice


@pytest.mark.parametrize("answers", [0, 2])
def test_without_time_the_gaussian_step_and_the_first_features_are_taken(answers: int) -> None:
    """A fit that is cut off counts for nothing, however good it was until then."""
    asked = iter([False] * answers)
    choice = choose_by_pilot(
        correlated_state(), GIVEN, RUNTIME, updates=40, out_of_time=lambda: next(asked, True)
    )
    assert (choice.affine_first, choice.features) == (True, "coarse")


def test_smallest_nll_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up values: without the Gaussian step it is better, and then the third features are best."""
    values = {(True, "coarse"): 3.0, (False, "coarse"): 2.0}
    values |= {(False, "even"): 2.5, (False, "fine"): 1.0, (False, "finest"): 1.5}
    seen = []

    def nll(start: FitState, settings: Settings, runtime: Runtime, features: str, *rest: object) -> float:
        seen.append((len(start.flow) == 1, features))
        return values[seen[-1]]

    monkeypatch.setattr(pilot, "_pilot_nll", nll)
    choice = choose_by_pilot(correlated_state(), GIVEN, RUNTIME, updates=40)
    assert (choice.affine_first, choice.features) == (False, "fine")
    assert sorted(seen) == sorted(values), "each choice is tried once"


def test_where_the_flow_will_be_closed_only_features_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pilot, "gaussian_step", None)
    choice = choose_by_pilot(correlated_state(), SETTINGS, RUNTIME, updates=40)
    assert not choice.affine_first


def forbidden_clock() -> float:
    raise AssertionError("a clock was read")


def test_without_a_budget_no_clock_is_read() -> None:
    record = timed_pilot(correlated_state(), SETTINGS, RUNTIME, Decisions(clock=forbidden_clock))
    assert record["seconds"] == 0.0


def test_under_a_budget_the_search_has_a_quarter() -> None:
    """The clock ticks at every look: two for each of seven rehearsals, one for a fit that is cut off."""
    times = iter(range(10_000))
    decisions = Decisions(budget=40.0, clock=lambda: float(next(times)))
    timed_pilot(correlated_state(), SETTINGS, RUNTIME, decisions)
    assert decisions.used() < 40 * 0.25 * 1.6 + 14 + 2 * len(FEATURES)


def test_an_update_is_timed_without_what_surrounds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts take 7 seconds each and half a second for an update; the third of them is interrupted."""
    clock, starts = [0.0], [0]

    def warm_start(*of: object, settings: DescentSettings, **rest: object) -> Descent:
        starts[0] += 1
        clock[0] += 7 + settings.updates / 2 + 100 * (starts[0] == 3)
        return Descent(settings.updates, settings.updates, 1.0, 1.0, 0)

    monkeypatch.setattr(proximal, "warm_start", warm_start)
    monkeypatch.setattr(pilot, "choose_by_pilot", lambda *of, **rest: Pilot(False, "even", 0.0))
    decisions = Decisions(budget=1e6, clock=lambda: clock[0])
    record = timed_pilot(correlated_state(), SETTINGS, RUNTIME, decisions)
    assert record["seconds"] == pytest.approx(0.5)

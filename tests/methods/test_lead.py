"""An autoregressive block as the first step: where it leads, where it does not, and that it is resumed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from jkoflow.blocks.autoregressive import AutoregressiveBlock
from jkoflow.config import Settings
from jkoflow.laws import GaussianMixture
from jkoflow.particles import Particles
from jkoflow.recipe import LeadRules, Recipe
from jkoflow.steps import State
from oracles.blocks import generator
from oracles.clocks import Clock
from oracles.jobs import Recorded, run_method, same_flow, start_state
from oracles.quick_training import LEAD, quick_recipe


def recipe() -> Recipe:
    return quick_recipe(updates=10, leads=True)


def spiky(n: int, seed: int) -> Particles:
    """Each of four columns is a spike or a wide bump, which the one before decides."""
    source = generator(seed)
    side = torch.rand(n, 4, generator=source) < 0.5
    side[:, 1:] ^= side[:, :-1]
    noise = torch.randn(n, 4, generator=source)
    return Particles(torch.where(side, -1.0 + 0.01 * noise, 0.7 + 0.5 * noise))


def bumps(n: int, seed: int) -> Particles:
    """A mixture of three Gaussians, which a closing describes."""
    centres = 2.0 * torch.eye(4, dtype=torch.float64)[:3]
    return Particles(
        GaussianMixture([0.3, 0.3, 0.4], centres, stds=[0.2] * 3).sample(n, generator(seed)).float()
    )


def start(rows: object = spiky) -> State:
    assert callable(rows)
    return start_state(rows(1500, 1), rows(300, 2))


def run(state: State, log: Recorded | None = None, **options: object) -> Recorded:
    given = {"recipe": recipe(), **options}
    return run_method(state, Settings(), log or Recorded(), given.pop("recipe"), **given)  # type: ignore[arg-type]


def leads(recorded: Recorded) -> bool:
    return any(isinstance(block, AutoregressiveBlock) for block in recorded.last.flow)


def test_block_leads_where_columns_have_spikes() -> None:
    recorded = run(start())
    first = recorded.logs[0]
    assert isinstance(recorded.taken[0].block, AutoregressiveBlock)
    assert (first["gamma"], first["finished_on"], first["kept"]) == (None, "proximal", True)
    assert first["updates"]["proximal"] > 10
    without = run(start(), recipe=replace(recipe(), lead=replace(LEAD, trial_updates=0)))
    assert recorded.last.nll < without.last.nll - 0.5


def test_mixture_needs_no_lead() -> None:
    recorded = run(start(bumps))
    assert not leads(recorded)
    assert [entry["value"]["leads"] for entry in recorded.decisions if entry["what"] == "lead"] == [False]


@pytest.mark.parametrize(("columns", "expected"), [(2, []), (3, ["lead"])])
def test_few_columns_are_not_tried(columns: int, expected: list[str]) -> None:
    rows = Particles(spiky(600, 1).x[:, :columns])
    recorded = run(start_state(rows, rows.rows(slice(0, 100))))
    assert [entry["what"] for entry in recorded.decisions if entry["what"] == "lead"] == expected


@pytest.mark.parametrize("most", [None, 1])
def test_fit_under_a_budget_is_replayed_bit_by_bit(most: int | None) -> None:
    """Interrupted before its first step, or after it, and gone on with by a clock that stands still."""
    whole = run(start(), budget=8.0, clock=Clock(0.02))
    assert leads(whole)
    log = Recorded(list(whole.decisions))
    taken = [] if most is None else whole.taken[:most]
    again = run(start(), log, budget=8.0, clock=Clock(1e-9), steps=taken)
    assert same_flow(again, whole)


def test_trial_is_credited_with_more_doublings_where_columns_are_many() -> None:
    rules = LeadRules()
    assert rules.doublings(6, 8.0) == 0.5
    assert rules.doublings(40, 8.0) == 2
    assert rules.doublings(300, 8.0) == 3

"""Rounds: blocks are kept for what the closed flow gains, closings follow them, decisions are replayed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from jkoflow.blocks import MixtureBlock, NeuralODEBlock
from jkoflow.config import Settings
from jkoflow.journal import Journal
from jkoflow.methods.pilot import Pilot
from jkoflow.methods.rounds import _has_time, closed_rounds
from jkoflow.particles import Particles
from jkoflow.recipe import Recipe
from jkoflow.steps import State
from oracles.blocks import generator, points
from oracles.clocks import Clock
from oracles.jobs import Recorded, job_of, same_flow, start_state
from oracles.quick_training import quick_recipe

RECIPE = quick_recipe(updates=12)


def heavy_tails(n: int, seed: int) -> Particles:
    """Student's t with three degrees of freedom in the plane: two mixtures of scales."""
    normal = points(n, 2, seed=seed) - 0.3
    chi = torch.randn(n, 3, generator=generator(seed + 50), dtype=torch.float64).square().mean(dim=1)
    return Particles((normal / chi.sqrt()[:, None]).float())


def start(make: Any = heavy_tails) -> State:
    return start_state(make(1200, 1), make(400, 2))


def run(state: State, recipe: Recipe = RECIPE, *, log: Any = None, **options: Any) -> Recorded:
    """Rounds from `state` on; the budget and its clock among the options, the others are settings."""
    recorded = Recorded(decisions=[] if log is None else log)
    timing = {key: options.pop(key) for key in ("budget", "clock") if key in options}
    job = job_of(Settings(**options), recorded.journal(**timing), recipe)
    closed_rounds(state, Pilot(affine_first=False, features="even", seconds=0.001), job)
    return recorded


def test_heavy_tails_are_closed_by_a_mixture_and_a_second_pass_follows() -> None:
    state = start()
    steps = run(state).steps
    closings = [step for _, step in steps if step.log["finished_on"] == "closed_form"]
    assert isinstance(closings[0].block, MixtureBlock)
    rare = closings[0].block.n_components - closings[0].log["components"]
    assert rare in (1, 2, 4), "one of each mixture is for odd rows"
    assert closings[0].log["components"] > 1
    assert {step.log["round"] for _, step in steps} == {0, 1}
    assert steps[-1][0].nll < state.nll
    numbers = [step.log["block"] for _, step in steps]
    assert numbers == list(range(1, len(steps) + 1))


def test_block_is_kept_for_the_closed_flow_alone() -> None:
    """Blocks that lower the NLL of the flow as it is, and not of the flow closed after them, are dropped."""
    steps = run(start()).steps
    best = min(step.log["closed_nll_nats"] for _, step in steps if "closed_nll_nats" in step.log)
    last = next(step for _, step in reversed(steps) if "closed_nll_nats" in step.log)
    assert last.log["closed_nll_nats"] == best
    dropped = [step.log for _, step in steps if not step.log["kept"]]
    assert any(record["gain_nats"] > 2 * record["gain_se_nats"] for record in dropped)


def test_round_ends_after_two_blocks_in_a_row_that_are_dropped() -> None:
    """No block gains as much as is asked for here."""
    strict = replace(RECIPE, keep=replace(RECIPE.keep, least_gain_nats=10.0))
    steps = run(start(), strict).steps
    first = [step.log for _, step in steps if step.log["round"] == 0]
    assert [record["kept"] for record in first] == [False, False, True]
    assert first[-1]["finished_on"] == "closed_form"


def test_normal_rows_end_with_the_first_pass() -> None:
    def normal(n: int, seed: int) -> Particles:
        return Particles((points(n, 2, seed=seed) - 0.3).float() / 1.2)

    steps = run(start(normal)).steps
    assert {step.log["round"] for _, step in steps} == {0}
    assert len(steps[-1][0].flow) <= 1


@pytest.mark.parametrize("max_blocks", [1, 2, 3])
def test_flow_has_at_most_so_many_blocks_with_its_closings(max_blocks: int) -> None:
    final = run(start(), max_blocks=max_blocks).last
    assert len(final.flow) <= max_blocks
    if max_blocks == 1:
        assert not any(isinstance(block, NeuralODEBlock) for block in final.flow)


def test_searches_under_a_budget_are_recorded_and_replayed() -> None:
    """With a clock that stands still and the log of before, the flow is the one of before."""
    whole = run(start(), budget=10.0, clock=Clock(0.05))
    decided = {entry["what"] for entry in whole.decisions}
    assert {"closing seconds", "components", "careful components", "stacked mixtures"} <= decided
    again = run(start(), log=whole.decisions, budget=10.0, clock=Clock(1e-9))
    assert same_flow(again, whole)


def test_small_budget_allows_fewer_components() -> None:
    counts = []
    for budget in (1.0, 1000.0):
        log = run(start(), budget=budget, clock=Clock(0.2)).decisions
        counts.append(next(entry["value"] for entry in log if entry["what"] == "components"))
    assert counts[0] < counts[1] <= 8


@pytest.mark.parametrize(("seconds", "expected"), [(0.01, True), (2.0, False)])
def test_another_round_wants_time_to_push_all_rows(seconds: float, expected: bool) -> None:
    """A push of 4,096 rows takes so many seconds; there are ten times as many rows and 9 seconds left."""
    now = [0.0]

    def push(x: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
        now[0] += seconds
        return x

    journal = Journal(budget=10.0, clock=lambda: now[0])
    now[0] = 1.0
    rows = Particles(torch.zeros(40_960, 1))
    state = replace(start_state(rows, rows.rows(slice(0, 9))), train=rows.deferred(push))
    assert _has_time(state, job_of(Settings(), journal, RECIPE), 1) is expected

"""Passes: blocks are kept for what the closed flow gains, closings follow them, decisions are replayed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jkoflow import passes
from jkoflow.blocks import MixtureBlock, NeuralODEBlock
from jkoflow.budget import Decisions
from jkoflow.config import Settings
from jkoflow.fit import FitState, TakenStep, initial_state
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles
from jkoflow.passes import closed_passes
from jkoflow.pilot import Pilot
from jkoflow.runtime import Runtime
from oracles.blocks import generator, points
from oracles.clocks import Clock
from oracles.quick_training import make_training_quick

Steps = list[tuple[FitState, TakenStep]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same training with a small network and few updates."""
    make_training_quick(monkeypatch, updates=12)


def heavy_tails(n: int, seed: int) -> Particles:
    """Student's t with three degrees of freedom in the plane: two mixtures of scales."""
    normal = points(n, 2, seed=seed) - 0.3
    chi = torch.randn(n, 3, generator=generator(seed + 50), dtype=torch.float64).square().mean(dim=1)
    return Particles((normal / chi.sqrt()[:, None]).float())


def start(make: Any = heavy_tails) -> FitState:
    return initial_state(StandardNormal(2), make(1200, 1), make(400, 2))


def run(state: FitState, decisions: Decisions | None = None, **settings: Any) -> Steps:
    choice = Pilot(affine_first=False, features="even", seconds=0.001)
    return list(closed_passes(state, choice, Settings(**settings), Runtime(0), decisions or Decisions(), []))


def test_heavy_tails_are_closed_by_a_mixture_and_a_second_pass_follows() -> None:
    state = start()
    steps = run(state)
    closings = [step for _, step in steps if step.info["finished_on"] == "closed_form"]
    assert isinstance(closings[0].block, MixtureBlock)
    rare = closings[0].block.n_components - closings[0].info["components"]
    assert rare in (1, 2, 4), "one of each mixture is for odd rows"
    assert closings[0].info["components"] > 1
    assert {step.info["round"] for _, step in steps} == {0, 1}
    assert steps[-1][0].nll < state.nll
    numbers = [step.info["block"] for _, step in steps]
    assert numbers == list(range(1, len(steps) + 1))


def test_block_is_kept_for_the_closed_flow_alone() -> None:
    """Blocks that lower the NLL of the flow as it is, and not of the flow closed after them, are dropped."""
    steps = run(start())
    best = min(step.info["closed_nll_nats"] for _, step in steps if "closed_nll_nats" in step.info)
    last = next(step for _, step in reversed(steps) if "closed_nll_nats" in step.info)
    assert last.info["closed_nll_nats"] == best
    dropped = [step.info for _, step in steps if not step.info["kept"]]
    assert any(record["gain_nats"] > 2 * record["gain_se_nats"] for record in dropped)


def test_pass_ends_after_two_blocks_in_a_row_that_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes._Closings, "keep", lambda self, before, after: False)
    steps = run(start())
    first = [step.info for _, step in steps if step.info["round"] == 0]
    assert [record["kept"] for record in first] == [False, False, True]
    assert first[-1]["finished_on"] == "closed_form"


def test_normal_rows_end_with_the_first_pass() -> None:
    def normal(n: int, seed: int) -> Particles:
        return Particles((points(n, 2, seed=seed) - 0.3).float() / 1.2)

    steps = run(start(normal))
    assert {step.info["round"] for _, step in steps} == {0}
    assert len(steps[-1][0].flow) <= 1


@pytest.mark.parametrize("max_blocks", [1, 2, 3])
def test_flow_has_at_most_so_many_blocks_with_its_closings(max_blocks: int) -> None:
    final = run(start(), max_blocks=max_blocks)[-1][0]
    assert len(final.flow) <= max_blocks
    if max_blocks == 1:
        assert not any(isinstance(block, NeuralODEBlock) for block in final.flow)


def test_searches_under_a_budget_are_recorded_and_replayed() -> None:
    """With a clock that stands still and the log of before, the flow is the one of before."""
    log: list[dict[str, Any]] = []
    whole = run(start(), Decisions(budget=10.0, clock=Clock(0.05), record=log.append))
    decided = {entry["what"] for entry in log}
    assert {"closing seconds", "components", "careful components", "stacked mixtures"} <= decided
    again = run(start(), Decisions(budget=10.0, clock=Clock(1e-9), recorded=log))
    one, other = whole[-1][0].flow.state_dict(), again[-1][0].flow.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_small_budget_allows_fewer_components() -> None:
    counts = []
    for budget in (1.0, 1000.0):
        log: list[dict[str, Any]] = []
        run(start(), Decisions(budget=budget, clock=Clock(0.2), record=log.append))
        counts.append(next(entry["value"] for entry in log if entry["what"] == "components"))
    assert counts[0] < counts[1] <= 8


@pytest.mark.parametrize(("seconds", "expected"), [(0.01, True), (2.0, False)])
def test_another_pass_wants_time_to_push_all_rows(seconds: float, expected: bool) -> None:
    """A push of 4,096 rows takes so many seconds; there are ten times as many rows and 9 seconds left."""
    now = [0.0]

    def push(x: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
        now[0] += seconds
        return x

    decisions = Decisions(budget=10.0, clock=lambda: now[0])
    now[0] = 1.0
    train = Particles(torch.zeros(40_960, 1)).deferred(push)
    assert passes._has_time(decisions, 1, train) is expected

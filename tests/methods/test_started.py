"""Blocks that are started by regression: how many a budget has time for, and what trains each."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from jkoflow.config import Settings
from jkoflow.functionals import KL
from jkoflow.journal import Journal, UpdateShares
from jkoflow.laws import StandardNormal
from jkoflow.methods.pilot import Pilot
from jkoflow.methods.started import affordable_blocks, started_solver
from jkoflow.particles import Particles
from jkoflow.recipe import Recipe
from jkoflow.runtime import Runtime
from jkoflow.steps import Step
from jkoflow.steps.solvers import DispatchedSolver, StartedSolver
from oracles.blocks import points
from oracles.jobs import job_of, start_state

CHOICE = Pilot(affine_first=False, features="even", seconds=0.01)


def affordable(most: int, n_rows: int, journal: Journal, *, round_number: int = 0) -> int:
    rows = Particles(torch.zeros(n_rows, 1))
    state, job = start_state(rows, rows.rows(slice(0, 10))), job_of(Settings(), journal, Recipe())
    return affordable_blocks(most, state, CHOICE, job, round_number=round_number)


@pytest.mark.parametrize(("remaining", "blocks"), [(1e-3, 3), (100.0, 5), (1e6, 9)])
def test_as_many_blocks_as_the_budget_trains_well(remaining: float, blocks: int) -> None:
    for most in (9, 2):
        assert affordable(most, 10**6, Journal(budget=remaining, clock=lambda: 0.0)) == min(most, blocks)


def test_small_tables_get_more_blocks_since_they_need_fewer_updates() -> None:
    """400 rows need 280 updates: 28 seconds pay for ten blocks, and no more than are wanted."""
    for most, blocks in ((20, 10), (6, 6)):
        assert affordable(most, 400, Journal(budget=28.001, clock=lambda: 0.0)) == blocks


def test_a_further_pass_may_have_a_single_block() -> None:
    assert affordable(9, 10**6, Journal(budget=1e-3, clock=lambda: 0.0), round_number=1) == 1


def test_without_a_budget_all_blocks() -> None:
    forbidden: Callable[[], float] = lambda: 1 / 0  # noqa: E731  # a clock that must not be read
    assert affordable(9, 10**6, Journal(clock=forbidden)) == 9


@pytest.mark.parametrize(
    ("updates", "finish_cost", "finished"), [(100, None, False), (100, 1.5, True), (99, 1.5, False)]
)
def test_a_start_is_finished_where_that_is_asked_and_no_budget_cut_it_short(
    updates: int, finish_cost: float | None, finished: bool
) -> None:
    solver = solver_for(updates, finish_cost)
    assert isinstance(solver, StartedSolver)
    assert (solver.start.updates, solver.variant) == (updates, "even")
    assert (solver.finish is not None) is finished


def solver_for(updates: int, finish_cost: float | None) -> object:
    """What trains a block that the journal gives so many updates, of a limit of 100."""
    decided = {"kind": "decision", "what": "updates", "block": 1, "round": 0, "value": updates}
    journal = Journal(budget=1e6, decisions=[decided], clock=lambda: 0.0)
    shares = UpdateShares(journal, Recipe().budget, 100, 3, 0.01, 10.0, finish_cost=finish_cost)
    dispatched = started_solver(CHOICE, shares, job_of(Settings(), journal, Recipe()))
    assert isinstance(dispatched, DispatchedSolver)
    rows = Particles(points(500, 2))
    return dispatched.solver_of(Step(1, math.inf, rows, rows, KL(StandardNormal(2)), Runtime(0)))

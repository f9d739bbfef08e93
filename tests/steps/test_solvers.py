"""Ways to find a block: the Gaussian oracle, what a start and a finish leave, and what is decided on."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jkoflow.blocks import AffineBlock, NeuralODEBlock, family_named
from jkoflow.blocks.judge import value_after
from jkoflow.blocks.ode.family import NetworkSettings, NeuralODEFamily
from jkoflow.exact.gaussian import GaussianState, Quadratic, jko_step
from jkoflow.fold import Fold, proximal_fold
from jkoflow.functionals import KL, ProximalObjective, Pushed
from jkoflow.journal import Journal, Solution, Taken
from jkoflow.laws import Gaussian, StandardNormal
from jkoflow.particles import Particles
from jkoflow.recipe import DescentSettings, KeepRules
from jkoflow.runtime import Runtime
from jkoflow.steps import State, Step
from jkoflow.steps.solvers import (
    ClosedFormSolver,
    ProximalSolver,
    StartedSolver,
    can_be_started,
)
from oracles.blocks import points
from oracles.jobs import start_state
from oracles.solvers import SMALL, gaussian_particles, quick_solver

RUNTIME = Runtime(0, dtype=torch.float64)


def make_step(gamma: float = 0.5, *, n: int = 600, dim: int = 2, **options: Any) -> Step:
    return Step(
        1,
        gamma,
        gaussian_particles(n, dim),
        gaussian_particles(300, dim, seed=1),
        KL(StandardNormal(dim)),
        RUNTIME,
        **options,
    )


def block_of(found: Solution) -> NeuralODEBlock:
    assert isinstance(found.block, NeuralODEBlock)
    return found.block


def moment_errors(before: Tensor, after: Tensor, gamma: float) -> tuple[float, float]:
    """Largest error of the mean, and of the standard deviations along the exact step's principal axes."""
    exact = jko_step(GaussianState.from_samples(before.numpy()), gamma, Quadratic.standard(before.shape[1]))
    got = GaussianState.from_samples(after.numpy())
    variances, axes = np.linalg.eigh(exact.covariance)
    deviations = np.sqrt(np.diag(axes.T @ got.covariance @ axes))
    return float(np.abs(got.mean - exact.mean).max()), float(np.abs(deviations - np.sqrt(variances)).max())


@pytest.mark.parametrize(("dim", "gamma"), [(1, 0.1), (2, 1.5), (10, 0.5)])
def test_gaussian_oracle(dim: int, gamma: float) -> None:
    """Two blocks in a row, each against the closed form started from the measured moments before it.

    A small network, so that it is quick; the default one is held to all nine cases among the slow tests of
    the methods.
    """
    family = NeuralODEFamily(network=NetworkSettings(width=32, depth=1, n_frequencies=0))
    solver = ProximalSolver(family, DescentSettings(300, 512, 2e-2, checkpoints=10), steps=1)
    train = gaussian_particles(8000, dim, torch.float32)
    laws = [train.x]

    def tell(state: State, taken: Taken, *, replayed: bool) -> None:
        laws.append(state.train.x)

    start = start_state(train, gaussian_particles(1000, dim, torch.float32, seed=1))
    proximal_fold(start, (gamma, gamma), Fold(solver, Runtime(0), Journal(observe=tell)))
    for before, after in pairwise(laws):
        mean_error, deviation_error = moment_errors(before.double(), after.double(), gamma)
        assert mean_error <= 0.03
        assert deviation_error <= 0.03


def test_proximal_solver_starts_from_the_identity_and_lowers_the_objective() -> None:
    step = make_step()
    found = quick_solver(60)(step)
    rows = step.validation
    reached = step.objective.terms_of(Pushed(rows, *block_of(found).push_with_log_det(rows.x)))
    identity = step.objective.terms_of(Pushed(rows, rows.x, torch.zeros(len(rows))))
    assert float(reached.total.detach()) < float(identity.total) - 0.01
    assert found.log == {
        "updates": {"warm_start": 0, "proximal": 60},
        "finished_on": "proximal",
        "retries": 0,
    }


def test_objective_has_the_step_size_of_the_step() -> None:
    """A large step goes further than a small one."""
    moved = []
    for gamma in (0.05, 5.0):
        step = make_step(gamma)
        block = block_of(quick_solver(60)(step))
        with torch.no_grad():
            moved.append(float((block.push(step.train.x) - step.train.x).square().mean()))
    assert moved[1] > 4 * moved[0]


def test_context_is_given_to_the_block() -> None:
    """Rows whose mean is their context: a conditional step moves each towards 0 by its own amount."""
    context = torch.where(points(800, 1) > 0.3, 2.0, -2.0)
    x = points(800, 1, seed=3) * 0.2 + context
    step = Step(1, math.inf, Particles(x, context), Particles(x, context), KL(StandardNormal(1)), RUNTIME)
    block = block_of(quick_solver(150)(step))
    with torch.no_grad():
        y = block.push(x, context)
    assert abs(float(y[context > 0].mean())) < 1
    assert abs(float(y[context < 0].mean())) < 1
    assert block.velocity.context_dim == 1


def test_phases_are_told_to_stop_by_name() -> None:
    asked: list[str] = []

    def stop(phase: str, updates: int) -> bool:
        asked.append(phase)
        return True

    settings = DescentSettings(20, 64, 1e-2, checkpoints=5)
    found = StartedSolver(SMALL, settings, settings, "even")(make_step(stop=stop))
    assert asked == ["warm_start", "proximal"]
    assert found.log["updates"] == {"warm_start": 4, "proximal": 4}


def started(
    finish: DescentSettings | None, gamma: float = 0.5
) -> tuple[NeuralODEBlock, dict[str, Any], Step]:
    step = make_step(gamma)
    found = StartedSolver(SMALL, DescentSettings(80, 128, 1e-2), finish, "even")(step)
    return block_of(found), dict(found.log), step


def test_finish_is_kept_where_it_lowers_the_held_out_nll() -> None:
    """A free step's objective is the NLL itself, so a finish on it can only lower the held-out value."""
    unfinished, alone, step = started(None, math.inf)
    finished, record, _ = started(DescentSettings(40, 128, 5e-3), math.inf)
    gain = value_after(unfinished, step.judge) - value_after(finished, step.judge)
    assert alone["finished_on"] == "warm_start"
    assert record["finished_on"] == "proximal"
    assert gain > 0
    assert record["proximal_nll_gain_nats"] == pytest.approx(gain, rel=1e-6)


class BackToTheIdentity(Step):
    """A step whose objective has a tiny step size, whatever its own is."""

    @property
    def objective(self) -> ProximalObjective:
        return ProximalObjective(self.functional, 1e-4)


def test_finish_that_does_not_lower_it_is_thrown_away() -> None:
    """With a tiny step size the objective asks the block back to the identity: the started block stays."""

    start = DescentSettings(80, 128, 1e-2)
    step = make_step(0.5)
    plain = block_of(StartedSolver(SMALL, start, None, "even")(make_step(0.5)))
    found = StartedSolver(SMALL, start, DescentSettings(60, 128, 1e-2), "even")(
        BackToTheIdentity(**{field.name: getattr(step, field.name) for field in fields(Step)})
    )
    block, record = block_of(found), found.log
    assert record["finished_on"] == "warm_start"
    assert record["updates"]["proximal"] > 0
    assert record["proximal_nll_gain_nats"] < 0
    state = plain.state_dict()
    assert all(torch.equal(block.state_dict()[key], state[key]) for key in state)


def test_start_that_learns_nothing_leaves_the_identity() -> None:
    """At a rate of zero nothing improves: no finish is tried."""
    still, short = DescentSettings(10, 64, 0.0), DescentSettings(10, 64, 1e-2)
    found = StartedSolver(SMALL, still, short, "even")(make_step())
    block, record = block_of(found), found.log
    x = points(5, 2)
    assert torch.equal(block.push(x), x)
    assert record["best_update"] == 0
    assert record["updates"]["proximal"] == 0


def test_judged_rows_are_the_first_and_fewer_in_high_dimension() -> None:
    many = Particles(torch.zeros(40_000, 2))
    assert len(KeepRules().judged(many)) == 40_000
    assert len(KeepRules().judged(Particles(torch.zeros(5000, 16)))) == 1024
    x = points(600, 128)
    assert torch.equal(KeepRules().judged(Particles(x)).x, x[:64])


def test_streams_of_a_step_depend_on_its_number_and_round() -> None:
    def first(**options: int) -> float:
        given = {"number": 1, "round": 0, **options}
        step = Step(
            given["number"],
            0.5,
            Particles(points(5, 2)),
            Particles(points(5, 2)),
            KL(StandardNormal(2)),
            RUNTIME,
            round=given["round"],
        )
        return float(torch.rand((), generator=step.stream("rows")))

    assert first() == first()
    assert len({first(), first(number=2), first(round=1)}) == 3


def test_what_can_be_started_by_regression() -> None:
    """A velocity field, and N(0, I) at the end of the path."""
    assert can_be_started(SMALL, StandardNormal(2))
    assert not can_be_started(SMALL, Gaussian([0.0, 1.0], [[1.0, 0.0], [0.0, 1.0]]))
    assert not can_be_started(family_named("affine"), StandardNormal(2))


@pytest.mark.parametrize("gamma", [0.1, 1.5, math.inf])
def test_closed_form_is_the_exact_step_of_the_moments(gamma: float) -> None:
    step = make_step(gamma)
    found = ClosedFormSolver(family_named("affine"))(step)
    assert isinstance(found.block, AffineBlock)
    assert moment_errors(step.train.x, found.block.push(step.train.x), gamma) < (1e-8, 1e-8)
    assert found.block.gamma == gamma


def test_value_of_the_functional_decides_by_weight() -> None:
    """The judge's average counts a row as often as its weight says."""
    step = make_step()
    weight = torch.randint(1, 4, (300,), generator=torch.Generator().manual_seed(0))
    rows = step.validation
    weighted = replace(step, validation=replace(rows, weight=weight.double()))
    copied = replace(step, validation=Particles(rows.x.repeat_interleave(weight, 0)))
    block = SMALL.new(rows, 0.5, generator=torch.Generator().manual_seed(0)).requires_grad_(False)
    assert value_after(block, weighted.judge) == pytest.approx(value_after(block, copied.judge), rel=1e-9)

"""One trained step: the Gaussian oracle, what a start and a finish leave behind, and what is decided on."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jkoflow.blocks import DETERMINANT_DIM, NeuralODEBlock, block_from_config
from jkoflow.blocks.ode.trace import exact_probes
from jkoflow.descent import DescentSettings
from jkoflow.exact.gaussian import GaussianState, Quadratic, jko_step
from jkoflow.fit import initial_state, proximal_fold
from jkoflow.laws import StandardNormal
from jkoflow.objective import KLObjective
from jkoflow.particles import Particles
from jkoflow.proximal import ProximalTrainer, WarmStartedTrainer
from jkoflow.runtime import Runtime
from jkoflow.schedule import Schedule
from jkoflow.solver_steps import (
    judged_rows,
    nll_after,
    replace_steps,
    rows_folded,
    rows_not_inverted,
    unfolded,
    with_checked_trace,
    with_chosen_steps,
)
from jkoflow.step import NetworkSettings, Step, new_block
from oracles.blocks import autodiff_log_det, make_velocity, points
from oracles.trainers import SMALL, gaussian_particles, quick_trainer

RUNTIME = Runtime(0, dtype=torch.float64)


def make_step(gamma: float = 0.5, *, n: int = 600, dim: int = 2, **options: Any) -> Step:
    return Step(
        1,
        gamma,
        gaussian_particles(n, dim),
        gaussian_particles(300, dim, seed=1),
        StandardNormal(dim),
        RUNTIME,
        **options,
    )


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
    `train_flow`.
    """
    network = NetworkSettings(width=32, depth=1, n_frequencies=0)
    trainer = ProximalTrainer(network, DescentSettings(300, 512, 2e-2, checkpoints=10), steps=1)
    train = gaussian_particles(8000, dim, torch.float32)
    state = initial_state(StandardNormal(dim), train, gaussian_particles(1000, dim, torch.float32, seed=1))
    before = state.train.x
    for after, _ in proximal_fold(
        state, schedule=Schedule((gamma, gamma)), trainer=trainer, runtime=Runtime(0), keep=None
    ):
        mean_error, deviation_error = moment_errors(before.double(), after.train.x.double(), gamma)
        assert mean_error <= 0.03
        assert deviation_error <= 0.03
        before = after.train.x


def test_new_block_is_the_identity_sized_to_its_particles() -> None:
    step = make_step(0.5)
    block = new_block(step, NetworkSettings(), steps=2)
    assert torch.equal(block.push(step.train.x), step.train.x)
    assert (block.gamma, block.steps, block.dim) == (0.5, 2, 2)
    assert block.velocity.frequencies.dtype == torch.float64
    assert float(block.velocity.radius) >= 2 * float(step.train.x.norm(dim=1).max()) - 1e-9
    assert float(block.velocity.amplitude) == pytest.approx(math.atan(math.sqrt(0.5)))


def test_proximal_trainer_starts_from_the_identity_and_lowers_the_objective() -> None:
    step = make_step()
    block, record = quick_trainer(60)(step)
    x = step.validation.x
    y, log_det = block.push_with_log_det(x)
    reached = float(step.objective.terms_of(x, y, log_det).total.detach())
    identity = float(step.objective.terms_of(x, x, torch.zeros(len(x))).total)
    assert reached < identity - 0.01
    assert record == {"updates": {"warm_start": 0, "proximal": 60}, "finished_on": "proximal", "retries": 0}


def test_objective_has_the_step_size_of_the_step() -> None:
    """A large step goes further than a small one."""
    moved = []
    for gamma in (0.05, 5.0):
        step = make_step(gamma)
        block, _ = quick_trainer(60)(step)
        with torch.no_grad():
            moved.append(float((block.push(step.train.x) - step.train.x).square().mean()))
    assert moved[1] > 4 * moved[0]


def test_context_is_given_to_the_block() -> None:
    """Rows whose mean is their context: a conditional step moves each towards 0 by its own amount."""
    context = torch.where(points(800, 1) > 0.3, 2.0, -2.0)
    x = points(800, 1, seed=3) * 0.2 + context
    step = Step(1, math.inf, Particles(x, context), Particles(x, context), StandardNormal(1), RUNTIME)
    block, _ = quick_trainer(150)(step)
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
    _, record = WarmStartedTrainer(SMALL, settings, settings)(make_step(stop=stop))
    assert asked == ["warm_start", "proximal"]
    assert record["updates"] == {"warm_start": 4, "proximal": 4}


def started(
    finish: DescentSettings | None, gamma: float = 0.5
) -> tuple[NeuralODEBlock, dict[str, Any], Step]:
    step = make_step(gamma)
    block, record = WarmStartedTrainer(SMALL, DescentSettings(80, 128, 1e-2), finish)(step)
    return block, record, step


def test_finish_is_kept_where_it_lowers_the_held_out_nll() -> None:
    """A free step's objective is the NLL itself, so a finish on it can only lower the held-out value."""
    unfinished, alone, step = started(None, math.inf)
    finished, record, _ = started(DescentSettings(40, 128, 5e-3), math.inf)
    judged = judged_rows(step.validation)
    gain = nll_after(unfinished, step.base, judged) - nll_after(finished, step.base, judged)
    assert alone["finished_on"] == "warm_start"
    assert record["finished_on"] == "proximal"
    assert gain > 0
    assert record["proximal_nll_gain_nats"] == pytest.approx(gain, rel=1e-6)


class BackToTheIdentity(Step):
    """A step whose objective has a tiny step size, whatever its own is."""

    @property
    def objective(self) -> KLObjective:
        return KLObjective(self.base, 1e-4)


def test_finish_that_does_not_lower_it_is_thrown_away() -> None:
    """With a tiny step size the objective asks the block back to the identity: the started block stays."""

    start = DescentSettings(80, 128, 1e-2)
    step = make_step(0.5)
    plain, _ = WarmStartedTrainer(SMALL, start, None)(make_step(0.5))
    block, record = WarmStartedTrainer(SMALL, start, DescentSettings(60, 128, 1e-2))(
        BackToTheIdentity(**{field.name: getattr(step, field.name) for field in fields(Step)})
    )
    assert record["finished_on"] == "warm_start"
    assert record["updates"]["proximal"] > 0
    assert record["proximal_nll_gain_nats"] < 0
    state = plain.state_dict()
    assert all(torch.equal(block.state_dict()[key], state[key]) for key in state)


def test_start_that_learns_nothing_leaves_the_identity() -> None:
    """At a rate of zero nothing improves: no finish is tried."""
    block, record = WarmStartedTrainer(SMALL, DescentSettings(10, 64, 0.0), DescentSettings(10, 64, 1e-2))(
        make_step()
    )
    x = points(5, 2)
    assert torch.equal(block.push(x), x)
    assert record["best_update"] == 0
    assert record["updates"]["proximal"] == 0


def test_fewest_solver_steps_that_are_as_good() -> None:
    """Within 2 % of what the block gains, and never less than 0.002 nats."""
    step = make_step(1.0)
    judged = judged_rows(step.validation)
    smooth = NeuralODEBlock(make_velocity(2, strength=0.05), gamma=1.0, steps=2).requires_grad_(False)
    chosen = with_chosen_steps(smooth, step, judged)
    assert (chosen.block.steps, chosen.missed) == (1, 0)
    assert chosen.block.velocity is smooth.velocity
    assert chosen.nll == nll_after(chosen.block, step.base, judged)


def test_a_field_that_folds_in_few_steps_gets_more() -> None:
    """However good its NLL: a map that folds has no density, and its "NLL" is below any."""
    step = make_step(1.0)
    judged = judged_rows(step.validation)
    field = make_velocity(2, seed=6, strength=2.0)
    by_steps = {
        steps: NeuralODEBlock(field, gamma=1.0, steps=steps).requires_grad_(False) for steps in (1, 2, 4, 8)
    }
    chosen = with_chosen_steps(by_steps[1], step, judged)
    assert chosen.missed == rows_not_inverted(chosen.block, step, judged) == 0
    for steps, block in by_steps.items():
        assert steps < chosen.block.steps
        assert rows_not_inverted(block, step, judged) > 0
    assert chosen.nll == nll_after(chosen.block, step.base, judged)


def test_folds_are_counted_by_the_sign_of_the_determinant() -> None:
    block = NeuralODEBlock(make_velocity(2, seed=6, strength=2.0), gamma=1.0, steps=1).requires_grad_(False)
    rows = Particles(2 * points(400, 2))
    jacobian = torch.func.vmap(torch.func.jacrev(lambda x: block.push(x[None])[0]))(rows.x)
    expected = int((torch.linalg.det(jacobian) < 0).sum())
    assert 0 < expected < 400
    assert rows_folded(block, rows) == expected
    assert rows_folded(unfolded(block, rows), rows) == 0


def test_beyond_the_largest_dimension_steps_are_refined_until_the_trace_is_the_determinant() -> None:
    dim = DETERMINANT_DIM + 2
    field = make_velocity(dim, seed=1, strength=2.0, frequency_scale=0.03).requires_grad_(False)
    coarse, rows = NeuralODEBlock(field, gamma=1.0, steps=1), Particles(points(20, dim))
    before = trace_gap(coarse, rows)
    refined = with_checked_trace(coarse, rows)
    assert before > 1e-3 > trace_gap(refined, rows)
    assert trace_gap(replace_steps(coarse, refined.steps // 2), rows) > 1e-3
    assert refined.trace_gap_nats == pytest.approx(trace_gap(refined, rows), rel=1e-6)
    assert refined.to_config()["trace_gap_nats"] == refined.trace_gap_nats
    assert block_from_config(refined.to_config()).trace_gap_nats == refined.trace_gap_nats


def test_below_it_nothing_is_refined() -> None:
    block = NeuralODEBlock(make_velocity(3), gamma=1.0, steps=1)
    assert with_checked_trace(block, Particles(points(5, 3))) is block


def trace_gap(block: NeuralODEBlock, rows: Particles) -> float:
    """Mean difference of the integrated trace from the determinant of the discrete map by autodiff, nats."""
    trace = block.push_with_trace(rows.x, None, exact_probes(rows.x))[1]
    return float((trace - autodiff_log_det(block, rows.x)).abs().mean())


def test_judged_rows_are_the_first_and_fewer_in_high_dimension() -> None:
    many = Particles(torch.zeros(40_000, 2))
    assert len(judged_rows(many)) == 40_000
    assert len(judged_rows(Particles(torch.zeros(5000, 16)))) == 1024
    x = points(600, 128)
    assert torch.equal(judged_rows(Particles(x)).x, x[:64])


def test_streams_of_a_step_depend_on_its_number_and_round() -> None:
    def first(**options: int) -> float:
        given = {"number": 1, "round": 0, **options}
        step = Step(
            given["number"],
            0.5,
            Particles(points(5, 2)),
            Particles(points(5, 2)),
            StandardNormal(2),
            RUNTIME,
            round=given["round"],
        )
        return float(torch.rand((), generator=step.stream("rows")))

    assert first() == first()
    assert len({first(), first(number=2), first(round=1)}) == 3

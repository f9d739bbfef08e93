"""How many solver steps a trained field's map needs: as few as serve held-out rows, and none that fold."""

from __future__ import annotations

import pytest
import torch

from jkoflow.blocks import NeuralODEBlock, block_from_config
from jkoflow.blocks.judge import Judge, rows_folded, rows_not_inverted
from jkoflow.blocks.ode.refine import replace_steps
from jkoflow.blocks.ode.trace import exact_probes
from jkoflow.functionals import KL
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles
from jkoflow.runtime import Runtime
from jkoflow.steps import Step
from oracles.blocks import autodiff_log_det, make_velocity, points
from oracles.solvers import gaussian_particles


def judge_of(rows: Particles, gamma: float) -> Judge:
    """The judge of a step whose held-out rows these are."""
    functional = KL(StandardNormal(rows.dim))
    return Step(1, gamma, rows, rows, functional, Runtime(0, dtype=torch.float64)).judge


def test_fewest_solver_steps_that_are_as_good() -> None:
    """Within 2 % of what the block gains, and never less than 0.002 nats."""
    judge = judge_of(gaussian_particles(300, 2, seed=1), 1.0)
    smooth = NeuralODEBlock(make_velocity(2, strength=0.05), gamma=1.0, steps=2).requires_grad_(False)
    chosen = smooth.settled(judge)
    assert (chosen.steps, rows_not_inverted(chosen, judge)) == (1, 0)
    assert chosen.velocity is smooth.velocity


def test_a_field_that_folds_in_few_steps_gets_more() -> None:
    """However good its NLL: a map that folds has no density, and its "NLL" is below any."""
    judge = judge_of(gaussian_particles(100, 2, seed=1), 1.0)
    field = make_velocity(2, seed=6, strength=2.0)
    by_steps = {
        steps: NeuralODEBlock(field, gamma=1.0, steps=steps).requires_grad_(False) for steps in (1, 2, 4, 8)
    }
    chosen = by_steps[1].settled(judge)
    assert rows_not_inverted(chosen, judge) == 0
    for steps, block in by_steps.items():
        assert steps < chosen.steps
        assert rows_not_inverted(block, judge) > 0
    assert by_steps[8].mended(judge).steps == chosen.steps


def test_a_map_that_can_be_inverted_keeps_its_steps_where_only_that_is_asked() -> None:
    judge = judge_of(gaussian_particles(300, 2, seed=1), 1.0)
    smooth = NeuralODEBlock(make_velocity(2, strength=0.05), gamma=1.0, steps=2).requires_grad_(False)
    assert smooth.mended(judge) is smooth


def test_folds_are_counted_by_the_sign_of_the_determinant() -> None:
    block = NeuralODEBlock(make_velocity(2, seed=6, strength=2.0), gamma=1.0, steps=1).requires_grad_(False)
    rows = Particles(2 * points(400, 2))
    jacobian = torch.func.vmap(torch.func.jacrev(lambda x: block.push(x[None])[0]))(rows.x)
    expected = int((torch.linalg.det(jacobian) < 0).sum())
    assert 0 < expected < 400
    judge = judge_of(rows, 1.0)
    assert rows_folded(block, rows, judge.check) == expected
    assert rows_folded(block.unfolded(judge), rows, judge.check) == 0


def test_beyond_the_largest_dimension_steps_are_refined_until_the_trace_is_the_determinant() -> None:
    dim = NeuralODEBlock.determinant_dim + 2
    field = make_velocity(dim, seed=1, strength=2.0, frequency_scale=0.03).requires_grad_(False)
    coarse, rows = NeuralODEBlock(field, gamma=1.0, steps=1), Particles(points(20, dim))
    before = trace_gap(coarse, rows)
    refined = coarse.checked(judge_of(rows, 1.0))
    assert before > 1e-3 > trace_gap(refined, rows)
    assert trace_gap(replace_steps(coarse, refined.steps // 2), rows) > 1e-3
    assert refined.trace_gap_nats == pytest.approx(trace_gap(refined, rows), rel=1e-6)
    assert refined.to_config()["trace_gap_nats"] == refined.trace_gap_nats
    assert block_from_config(refined.to_config()).trace_gap_nats == refined.trace_gap_nats


def test_below_it_nothing_is_refined() -> None:
    block = NeuralODEBlock(make_velocity(3), gamma=1.0, steps=1)
    assert block.checked(judge_of(Particles(points(5, 3)), 1.0)) is block


def trace_gap(block: NeuralODEBlock, rows: Particles) -> float:
    """Mean difference of the integrated trace from the determinant of the discrete map by autodiff, nats."""
    trace = block.push_with_trace(rows.x, None, exact_probes(rows.x))[1]
    return float((trace - autodiff_log_det(block, rows.x)).abs().mean())

"""Neural-ODE blocks as a family: the size of a network by rows and step size, and the block before."""

from __future__ import annotations

import math

import pytest
import torch

from jkoflow.blocks.family import Start
from jkoflow.blocks.ode.family import NetworkRules, NeuralODEFamily
from oracles.blocks import generator
from oracles.solvers import gaussian_particles

RULES = NetworkRules()


def test_small_tables_have_few_frequencies() -> None:
    """One for 600 rows: 8 at least, 64 at most."""
    rows = (10, 4800, 9000, 38_400, 10**6)
    assert [RULES.started(3, 1.0, n).n_frequencies for n in rows] == [8, 8, 15, 64, 64]


def test_phase_of_the_features_does_not_grow_with_the_dimension() -> None:
    """w.x of standardised x has the standard deviation that was asked for."""
    assert RULES.started(16, 2.0, 100).frequency_scale * math.sqrt(16) == pytest.approx(2.0)
    assert RULES.plain(9).frequency_scale * 3 == pytest.approx(RULES.phase)


@pytest.mark.parametrize(("least", "most"), RULES.features.values())
def test_features_are_as_fine_as_a_step_is_short(least: float, most: float) -> None:
    """1.1 over the angle of the step, within what the pilot chose; a free step's angle is pi/2."""
    name = next(name for name, pair in RULES.features.items() if pair == (least, most))
    phases = [RULES.phase_of(name, math.tan(angle) ** 2) for angle in (0.01, 0.1, 0.3, 1.0)]
    assert phases == pytest.approx([min(max(1.1 / angle, least), most) for angle in (0.01, 0.1, 0.3, 1.0)])
    assert RULES.phase_of(name, math.inf) == pytest.approx(max(2.2 / math.pi, least))


@pytest.mark.parametrize("variant", [None, "even"])
def test_new_block_is_the_identity_sized_to_its_particles(variant: str | None) -> None:
    rows = gaussian_particles(600, 2)
    block = NeuralODEFamily().new(rows, 0.5, Start(variant, steps=2), generator=generator())
    assert torch.equal(block.push(rows.x), rows.x)
    assert (block.gamma, block.steps, block.dim) == (0.5, 2, 2)
    assert block.velocity.frequencies.dtype == torch.float64
    assert float(block.velocity.radius) >= 2 * float(rows.x.norm(dim=1).max()) - 1e-9
    assert float(block.velocity.amplitude) == pytest.approx(math.atan(math.sqrt(0.5)))
    assert block.velocity.depth == (3 if variant is None else 2)


def test_network_is_sized_to_the_rows_of_the_whole_fit() -> None:
    rows = gaussian_particles(50, 2)
    few, many = (
        NeuralODEFamily().new(rows, 0.5, Start("even", n), generator=generator()) for n in (None, 30_000)
    )
    assert (few.velocity.n_frequencies, many.velocity.n_frequencies) == (8, 50)

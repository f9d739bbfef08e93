"""The documented defaults of training."""

from __future__ import annotations

import math

import pytest

from jkoflow import recipe


def test_documented_limit_in_updates() -> None:
    rows = (10, 400, 10_000, 62_500, 10**6)
    assert [recipe.updates_per_block(n) for n in rows] == [200, 280, 1400, 3500, 3500]
    assert [recipe.objective_updates(n) for n in rows] == [200, 200, 1000, 2500, 2500]


def test_batch_is_a_quarter_of_a_small_table() -> None:
    assert [recipe.batch_of(n) for n in (10, 512, 1000, 2048, 10**6)] == [128, 128, 250, 384, 384]


def test_small_tables_have_few_frequencies() -> None:
    """One for 600 rows: 8 at least, 64 at most."""
    rows = (10, 4800, 9000, 38_400, 10**6)
    assert [recipe.network_of(3, 1.0, n).n_frequencies for n in rows] == [8, 8, 15, 64, 64]


def test_phase_of_the_features_does_not_grow_with_the_dimension() -> None:
    """w.x of standardised x has the standard deviation that was asked for."""
    assert recipe.network_of(16, 2.0, 100).frequency_scale * math.sqrt(16) == pytest.approx(2.0)
    assert recipe.plain_network_of(9).frequency_scale * 3 == pytest.approx(recipe.PLAIN_PHASE)


@pytest.mark.parametrize(("least", "most"), recipe.FEATURES.values())
def test_features_are_as_fine_as_a_step_is_short(least: float, most: float) -> None:
    """1.1 over the angle of the step, within what the pilot chose; a free step's angle is pi/2."""
    name = next(name for name, pair in recipe.FEATURES.items() if pair == (least, most))
    phases = [recipe.phase_of(name, math.tan(angle) ** 2) for angle in (0.01, 0.1, 0.3, 1.0)]
    assert phases == pytest.approx([min(max(1.1 / angle, least), most) for angle in (0.01, 0.1, 0.3, 1.0)])
    assert recipe.phase_of(name, math.inf) == pytest.approx(max(2.2 / math.pi, least))


def test_finish_has_a_twentieth_of_the_updates_and_at_least_ten() -> None:
    network = recipe.network_of(2, 1.0, 5000)
    for updates, finish in ((1000, 50), (40, 10)):
        trainer = recipe.started_trainer(network, updates, 5000, "auto")
        assert trainer.start.updates == updates
        assert trainer.finish is not None
        assert trainer.finish.updates == finish
        assert (trainer.start.batch, trainer.finish.batch) == (384, 384)
    assert recipe.started_trainer(network, 1000, 5000, "auto", finished=False).finish is None

"""The default training made quick, for tests of what surrounds it: a recipe of small blocks, few updates."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest

from jkoflow.blocks.autoregressive import AutoregressiveRules
from jkoflow.blocks.ode.family import NetworkRules
from jkoflow.fitting import fit_table
from jkoflow.recipe import BudgetRules, ClosingRules, LeadRules, PilotRules, Recipe, UpdateRules

__all__ = ["LEAD", "quick_recipe", "use_quick_recipe"]

SIZES = AutoregressiveRules(width=(16, 16), fixed=(6, 6), n_moving=2)
LEAD = LeadRules(trial_updates=40, checkpoints=8, updates_per_root_row=2, batches=(64, 64), most_epochs=2)


def quick_recipe(*, updates: int = 20, leads: bool = False) -> Recipe:
    """Small blocks, `updates` updates each by batches of 64 rows, closings of eight components.

    Arguments:
        updates: Of each block.
        leads: Whether an autoregressive block may be the first.
    """
    lead = replace(LEAD, trial_updates=LEAD.trial_updates if leads else 0)
    return Recipe(
        autoregressive=SIZES,
        network=NetworkRules(
            width=16,
            started_depth=1,
            depth=1,
            frequencies=4,
            started_frequencies=(4, 4),
        ),
        updates=UpdateRules(
            fewest=updates, most_regression=updates, most_objective=updates, batches=(64, 64)
        ),
        pilot=PilotRules(updates=(4, 8)),
        lead=lead,
        budget=BudgetRules(updates=(20, 2 * updates)),
        closing=ClosingRules(
            quick_rows=(500, 500),
            quick_components=(8, 8),
            quick_tolerance=1e-2,
            least_rows=500,
            careful_rows=500,
            careful_components=(8, 8),
            careful_tolerance=1e-2,
            careful_products=1.0,
            seconds=1e9,
            rows_per_component=(1, 1),
            most_members=4,
        ),
    )


def use_quick_recipe(monkeypatch: pytest.MonkeyPatch, *, updates: int = 20, leads: bool = False) -> None:
    """Let the estimator and the shell fit by `quick_recipe`, which they have no option for."""
    quick = functools.partial(fit_table, recipe=quick_recipe(updates=updates, leads=leads))
    for door in ("estimator", "cli.fit", "cli.demo"):
        monkeypatch.setattr(f"jkoflow.{door}.fit_table", quick)

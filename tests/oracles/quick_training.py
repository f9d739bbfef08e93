"""The default training made quick, for tests of what surrounds it: a recipe of small blocks, few updates."""

from __future__ import annotations

import functools

import pytest

from jkoflow.blocks.ode.family import NetworkRules
from jkoflow.fitting import fit_table
from jkoflow.recipe import BudgetRules, ClosingRules, LeadRules, PilotRules, Recipe, UpdateRules

__all__ = ["quick_recipe", "use_quick_recipe"]


def quick_recipe(*, updates: int = 20) -> Recipe:
    """Small blocks, `updates` updates each by batches of 64 rows, closings of eight components, no lead."""
    return Recipe(
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
        lead=LeadRules(trial_updates=0),
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


def use_quick_recipe(monkeypatch: pytest.MonkeyPatch, *, updates: int = 20) -> None:
    """Let the estimator and the shell fit by `quick_recipe`, which they have no option for."""
    quick = functools.partial(fit_table, recipe=quick_recipe(updates=updates))
    for door in ("estimator", "cli.fit", "cli.demo"):
        monkeypatch.setattr(f"jkoflow.{door}.fit_table", quick)

"""The default training made quick, for tests of what surrounds it: a small network and few updates."""

from __future__ import annotations

import functools

import pytest

from jkoflow import pace, passes, pilot, recipe, training
from jkoflow.closing_search import Search
from jkoflow.step import NetworkSettings

__all__ = ["make_training_quick"]


def make_training_quick(monkeypatch: pytest.MonkeyPatch, *, updates: int = 20) -> None:
    """Let every fit of the running test train small blocks for `updates` updates, by batches of 64 rows."""
    small = functools.partial(NetworkSettings, width=16, depth=1, n_frequencies=4)
    monkeypatch.setattr(recipe, "NetworkSettings", small)
    monkeypatch.setattr(recipe, "_DEPTH", 1)
    monkeypatch.setattr(recipe, "FREQUENCIES", (4, 4))
    for limit in ("updates_per_block", "objective_updates"):
        monkeypatch.setattr(recipe, limit, lambda n_rows: updates)
    monkeypatch.setattr(recipe, "BATCHES", (64, 64))
    monkeypatch.setattr(pilot, "UPDATES", (4, 8))
    monkeypatch.setattr(training, "_BUDGET_UPDATES", 2 * updates)
    monkeypatch.setattr(pace, "_MOST_UPDATES", 2 * updates)
    for search, most_members in (("scouting_search", 1), ("careful_search", 4)):
        quick = Search(rows=500, tolerance=1e-2, most_components=8, most_members=most_members)
        monkeypatch.setattr(passes, search, lambda *sizes, quick=quick: quick)

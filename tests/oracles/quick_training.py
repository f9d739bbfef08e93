"""The default training made quick, for tests of what surrounds it: a small network and few updates."""

from __future__ import annotations

import functools

import pytest

from jkoflow import training
from jkoflow.proximal import NetworkSettings

__all__ = ["make_training_quick"]


def make_training_quick(monkeypatch: pytest.MonkeyPatch, *, updates: int = 20) -> None:
    """Let every fit of the running test train small blocks for `updates` updates, by batches of 64 rows."""
    small = functools.partial(NetworkSettings, width=16, depth=1, n_frequencies=4)
    monkeypatch.setattr(training, "NetworkSettings", small)
    monkeypatch.setattr(training, "updates_per_block", lambda n_rows: updates)
    monkeypatch.setattr(training, "_PILOT_UPDATES", (4, 8))
    monkeypatch.setattr(training, "_BUDGET_UPDATES", 2 * updates)
    monkeypatch.setattr(training, "_BATCHES", (64, 64))

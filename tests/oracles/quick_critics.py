"""Critics of a certificate, trained little: the lower bound holds for any."""

from __future__ import annotations

import pytest

from jkoflow.certify import critic, cross_fitting, neighbours, witness
from jkoflow.recipe import DescentSettings

__all__ = ["use_quick_critics"]


def use_quick_critics(
    monkeypatch: pytest.MonkeyPatch, *, updates: int = 50, components: tuple[int, ...] | None = None
) -> None:
    """Let critics descend `updates` times on 4,096 draws, or be of 80 trees; mixtures of these components."""
    quick = DescentSettings(updates=updates, batch=256, learning_rate=1e-2, checkpoints=5)
    monkeypatch.setattr(cross_fitting, "_MOST_DRAWS", 4096)
    monkeypatch.setattr(critic, "_DESCENT", quick)
    monkeypatch.setattr(critic, "_TREES", 80)
    monkeypatch.setattr(neighbours, "_SUBSAMPLES", 20)
    if components is not None:
        monkeypatch.setattr(witness, "_COMPONENTS", components)
        monkeypatch.setattr(witness, "_COMPONENTS_OF_SCORES", (1,))

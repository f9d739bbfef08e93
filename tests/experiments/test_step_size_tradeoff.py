"""The bound on the blocks of exact steps holds for closed-form steps, and a small run reaches its target."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from experiments.scripts import load, run
from jkoflow.exact import GaussianState, Quadratic, jko_step, kl

STANDARD = Quadratic.standard(2)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("step_size_tradeoff", monkeypatch)


def blocks_of(state: GaussianState, gamma: float, target: float) -> int:
    """How many exact steps it takes to come within `target`."""
    blocks = 0
    while kl(state, STANDARD) > target:
        state, blocks = jko_step(state, gamma, STANDARD), blocks + 1
    return blocks


@pytest.mark.parametrize("gamma", [0.25, 0.5, 1.0, 2.0, 4.0])
def test_bound_on_exact_steps(script: ModuleType, gamma: float) -> None:
    """An equality for a shifted normal; with another covariance fewer steps are enough."""
    shifted = GaussianState([1.5, -1.0], [[1, 0], [0, 1]])
    bound = script.exact_blocks(kl(shifted, STANDARD), 1e-3, gamma)
    assert blocks_of(shifted, gamma, 1e-3) == bound
    narrow = GaussianState([0.5, 0.2], [[0.05, 0.02], [0.02, 0.3]])
    assert blocks_of(narrow, gamma, 1e-3) <= script.exact_blocks(kl(narrow, STANDARD), 1e-3, gamma)


def test_reached_stops_at_the_target(script: ModuleType) -> None:
    rows = [
        {"gamma": gamma, "seed": 0, "kl_nats": value}
        for gamma, values in ((1.0, (0.5, 0.1, 0.2)), (2.0, (0.5, 0.4)))
        for value in values
    ]
    assert [row["kl_nats"] for row in script.reached(rows, 1.0, 0, 0.15)] == [0.5, 0.1]
    assert script.reached(rows, 2.0, 0, 0.15) == []


def test_a_small_run_lowers_the_kl(script: ModuleType, tmp_path: Path) -> None:
    sizes = ("--rows", "2000", "--updates", "40", "--repeats", "1", "--fresh-rows", "1000")
    rows = run(script, tmp_path, "--gammas", "4", "--target", "0.3", *sizes)
    assert [row["block"] for row in rows] == [1, 2]
    assert rows[0]["kl_start_nats"] > rows[0]["kl_nats"] > rows[1]["kl_nats"] > 0
    assert rows[1]["cpu_seconds"] > rows[0]["cpu_seconds"] > 0

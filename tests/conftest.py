"""Every test starts from a seed of its own, on one thread."""

from __future__ import annotations

import gc
import hashlib
import os
import random

# Set before torch is imported, and inherited by the commands that tests start. One thread: the tests already
# run one process to a core, and sums over several threads are not the same from run to run.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import numpy as np
import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

# Derandomised: a quick suite that is green for one person is green for the next. No deadline: the machine may
# be busy.
settings.register_profile("jkoflow", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("jkoflow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole commands first: half a minute of them at the end is waited for by one worker alone."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


def pytest_collection_finish() -> None:
    """Spare the garbage collector what lives as long as the session: tests that ask it look at their own."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _without_cross_validation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate of a small table fits it five times more; left out unless the test asks for that."""
    if not request.node.get_closest_marker("cross_validation"):
        monkeypatch.setattr("jkoflow.certify.cross_validation._MOST_ROWS", 0)


def seed_of(node_id: str) -> int:
    """The seed of one test: the same alone, in any order and on any worker."""
    return int.from_bytes(hashlib.sha256(node_id.encode()).digest()[:4], "little")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The running test's own seed, to pass to whatever takes one."""
    return seed_of(request.node.nodeid)


@pytest.fixture(autouse=True)
def _seeded(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)

r"""The defaults of training, in one place: how many updates, which batch, which rates, which network.

    updates = clip(10 sqrt(rows), 200, 2500),    batch = clip(rows/4, 128, 512)

of a block's start; a tenth of the updates for its proximal finish. None of them depends on what the rows are.
Source: measured on held-out rows, docs/performance.md.
"""

from __future__ import annotations

import math

from jkoflow.descent import DescentSettings
from jkoflow.proximal import NetworkSettings, ProximalTrainer, WarmStartedTrainer

__all__ = [
    "batch_of",
    "end_to_end_descent",
    "network_of",
    "proximal_trainer",
    "started_trainer",
    "updates_per_block",
    "warm_start_descent",
]

BATCHES = (128, 512)
WARM_START_RATE = 1e-2
FINISH_RATE = 1e-3
PROXIMAL_RATE = 5e-3
END_TO_END_RATE = 2e-3
FINISH_SHARE = 0.1
LEAST_FINISH = 10
PLAIN_PHASE = 1.0
"""Standard deviation of the features' phase w.x where no pilot has chosen one."""


def updates_per_block(n_rows: int) -> int:
    """The documented limit in updates of one block's start."""
    return int(min(max(10 * math.sqrt(n_rows), 200), 2500))


def batch_of(n_rows: int) -> int:
    """Rows of one update: a quarter of the table, within 128 and 512."""
    low, high = BATCHES
    return min(max(n_rows // 4, low), high)


def network_of(dim: int, phase: float = PLAIN_PHASE) -> NetworkSettings:
    """The network whose Fourier features have a phase w.x of that standard deviation."""
    return NetworkSettings(frequency_scale=phase / math.sqrt(dim))


def warm_start_descent(n_rows: int, updates: int, *, checkpoints: int = 20) -> DescentSettings:
    """How a block's start descends."""
    return DescentSettings(updates, batch_of(n_rows), WARM_START_RATE, checkpoints=checkpoints)


def end_to_end_descent(n_rows: int) -> DescentSettings:
    """How all blocks descend at once."""
    return DescentSettings(updates_per_block(n_rows), batch_of(n_rows), END_TO_END_RATE)


def proximal_trainer(dim: int, n_rows: int, divergence: str) -> ProximalTrainer:
    """The trainer of blocks on the proximal objective alone."""
    descent = DescentSettings(updates_per_block(n_rows), batch_of(n_rows), PROXIMAL_RATE)
    return ProximalTrainer(network_of(dim), descent, divergence)


def started_trainer(
    network: NetworkSettings, updates: int, n_rows: int, divergence: str
) -> WarmStartedTrainer:
    """The trainer of blocks that start on the OU path and are finished on the proximal objective."""
    finish = max(LEAST_FINISH, int(FINISH_SHARE * updates))
    return WarmStartedTrainer(
        network,
        warm_start_descent(n_rows, updates),
        DescentSettings(finish, batch_of(n_rows), FINISH_RATE, checkpoints=5),
        divergence,
    )

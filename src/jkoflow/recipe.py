r"""The defaults of training, in one place: how many updates, which batch, which rates, which network.

    updates = clip(14 sqrt(rows), 200, 3500),    batch = clip(rows/4, 128, 384)
    updates on an objective alone = clip(10 sqrt(rows), 200, 2500)
    frequencies = clip(rows/600, 8, 64)
    phase   = clip(1.1/theta, least, most)       of the features' w.x, theta the angle of the block's step

of a block's start; a twentieth of the updates for its proximal finish, where it has one. None of them depends
on what the rows are; a pilot chooses `least` and `most` among four pairs. Source: measured on held-out rows,
docs/performance.md.
"""

from __future__ import annotations

import math

from jkoflow.descent import DescentSettings
from jkoflow.proximal import ProximalTrainer, WarmStartedTrainer
from jkoflow.step import NetworkSettings
from jkoflow.warm_start import ou_angle

__all__ = [
    "FEATURES",
    "batch_of",
    "end_to_end_descent",
    "frequencies_of",
    "network_of",
    "objective_updates",
    "phase_of",
    "plain_network_of",
    "proximal_trainer",
    "started_trainer",
    "updates_per_block",
    "warm_start_descent",
]

BATCHES = (128, 384)
WARM_START_RATE = 1e-2
FINISH_RATE = 1e-3
PROXIMAL_RATE = 5e-3
END_TO_END_RATE = 2e-3
FINISH_SHARE = 0.05
LEAST_FINISH = 10
PLAIN_PHASE = 1.0
"""Standard deviation of the features' phase w.x where no pilot has chosen features."""

FEATURES = {"coarse": (1.2, 1.2), "even": (2.5, 2.5), "fine": (1.2, 6.0), "finest": (1.2, 24.0)}
"""Least and most standard deviation of the phase, by name: one for all blocks, or finer in shorter steps."""
_PHASE_TIMES_ANGLE = 1.1
_DEPTH = 2
FREQUENCIES = (8, 64)
_ROWS_PER_FREQUENCY = 600


def updates_per_block(n_rows: int) -> int:
    """The documented limit in updates of one block's start."""
    return _updates(14, n_rows, 3500)


def objective_updates(n_rows: int) -> int:
    """The same where an objective is descended from the identity: more would learn rows by heart."""
    return _updates(10, n_rows, 2500)


def _updates(times_root: int, n_rows: int, most: int) -> int:
    return int(min(max(times_root * math.sqrt(n_rows), 200), most))


def batch_of(n_rows: int) -> int:
    """Rows of one update: a quarter of the table, within 128 and 384."""
    low, high = BATCHES
    return min(max(n_rows // 4, low), high)


def phase_of(features: str, gamma: float) -> float:
    """Standard deviation of the phase w.x in a block of step size `gamma`, radians.

    A step of angle theta smooths structure of about that length, in standardised units: shorter waves than
    that are gone before its end, longer ones are for later blocks.
    """
    least, most = FEATURES[features]
    return min(max(_PHASE_TIMES_ANGLE / ou_angle(gamma), least), most)


def frequencies_of(n_rows: int) -> int:
    """Frequencies of a started block: one for 600 rows, within 8 and 64; more would learn rows by heart."""
    low, high = FREQUENCIES
    return min(max(n_rows // _ROWS_PER_FREQUENCY, low), high)


def network_of(dim: int, phase: float, n_rows: int) -> NetworkSettings:
    """The network of a started block, whose features have a phase w.x of that standard deviation."""
    return NetworkSettings(
        depth=_DEPTH, n_frequencies=frequencies_of(n_rows), frequency_scale=phase / math.sqrt(dim)
    )


def plain_network_of(dim: int) -> NetworkSettings:
    """The network of a block that is trained on its objective from the identity."""
    return NetworkSettings(frequency_scale=PLAIN_PHASE / math.sqrt(dim))


def warm_start_descent(n_rows: int, updates: int, *, checkpoints: int = 20) -> DescentSettings:
    """How a block's start descends."""
    return DescentSettings(updates, batch_of(n_rows), WARM_START_RATE, checkpoints=checkpoints)


def end_to_end_descent(n_rows: int) -> DescentSettings:
    """How all blocks descend at once."""
    return DescentSettings(objective_updates(n_rows), batch_of(n_rows), END_TO_END_RATE)


def proximal_trainer(dim: int, n_rows: int, divergence: str) -> ProximalTrainer:
    """The trainer of blocks on the proximal objective alone."""
    descent = DescentSettings(objective_updates(n_rows), batch_of(n_rows), PROXIMAL_RATE)
    return ProximalTrainer(plain_network_of(dim), descent, divergence)


def started_trainer(
    network: NetworkSettings, updates: int, n_rows: int, divergence: str, *, finished: bool = True
) -> WarmStartedTrainer:
    """The trainer of blocks that start on the OU path and, where asked, are finished on the objective."""
    finish = DescentSettings(
        max(LEAST_FINISH, int(FINISH_SHARE * updates)), batch_of(n_rows), FINISH_RATE, checkpoints=5
    )
    return WarmStartedTrainer(
        network, warm_start_descent(n_rows, updates), finish if finished else None, divergence
    )

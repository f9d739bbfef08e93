r"""How a descent on a block's parameters goes: updates, batches, rates, and when it ends.

    rate(i) = rate_0 min(1, (i+1)/warm_up) (f + (1-f) (1 + cos(pi i/updates))/2)

Source: Kingma & Ba (2015), arXiv 1412.6980, for Adam's numbers; the others were measured on held-out rows of
training tables (docs/performance.md).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DescentSettings"]


@dataclass(frozen=True)
class DescentSettings:
    """How long and how boldly to descend.

    Arguments:
        updates: Limit in updates; the cosine ends there.
        batch: Rows of one update.
        learning_rate: Adam's rate after warm-up.
        checkpoints: Number of times, evenly spaced over `updates`, that the validation value is computed.
        patience: Checkpoints without improvement before stopping.
        retries: Restarts from the best weights so far, each at `retry_factor` times the rate before, when the
            loss or the validation value is not finite.
        retry_factor: Factor of the rate in a restart.
        warm_up: Updates over which the rate grows to its full size.
        final_fraction: The rate of the last update as a share of the full one, f.
        average_share: Share of the newest weights in the average of weights that is judged and kept.
        first_decay: Adam's beta_1, as published.
        second_decay: Adam's beta_2, as published.
        least_denominator: Adam's epsilon, as published.
        largest_gradient: Length that a longer gradient is cut to.
    """

    updates: int
    batch: int
    learning_rate: float
    checkpoints: int = 20
    patience: int = 6
    retries: int = 3
    retry_factor: float = 0.3
    warm_up: int = 50
    final_fraction: float = 0.02
    average_share: float = 0.02
    first_decay: float = 0.9
    second_decay: float = 0.999
    least_denominator: float = 1e-8
    largest_gradient: float = 5.0

"""Adam until a budget of CPU-seconds is used, the weights with the least validation loss kept.

    rate(t) = rate (1 + cos(π t/B))/2 at CPU-second t of the budget B

Validation counts as training: it gets a tenth of the time, the first after a fiftieth of the budget, and
a last one at its end. An update whose gradient is not finite is left out.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

__all__ = ["Clock", "batches", "descend"]

CLIP_NORM = 5.0
VALIDATION_TIME = 0.1
FIRST_VALIDATION = 0.02


@dataclass(frozen=True)
class Clock:
    """CPU-seconds of a budget, from when it was made."""

    budget: float
    start: float = field(default_factory=time.process_time)

    def used(self) -> float:
        """CPU-seconds since the start."""
        return time.process_time() - self.start

    def share(self) -> float:
        """Part of the budget that is used, at most 1."""
        return min(1.0, self.used() / self.budget)

    def remaining(self) -> float:
        """CPU-seconds left, negative when it is over."""
        return self.budget - self.used()


def batches(rows: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches without end, every row once an epoch; the rest of an epoch that fills no batch is left out."""
    size = min(size, len(rows))
    while True:
        order = torch.randperm(len(rows), generator=generator)
        for start in range(0, len(rows) - size + 1, size):
            yield rows[order[start : start + size]]


def descend(
    module: nn.Module,
    loss: Callable[[], Tensor],
    validation: Callable[[], float],
    *,
    clock: Clock,
    rate: float,
    cosine: bool = True,
    patience: float | None = None,
) -> None:
    """Train the module in place until the clock's budget is used, and leave its best weights in it.

    Arguments:
        module: What is trained.
        loss: Of the next batch.
        validation: Loss of the validation rows, the same function of the weights every time.
        clock: The budget.
        rate: Adam's, at the start.
        cosine: Whether the rate falls to 0 at the budget's end, or stays.
        patience: After such a part of the budget without a better validation, the descent goes back to the
            best weights and on with half the rate; None for never.
    """
    optimiser = torch.optim.Adam(module.parameters(), lr=rate)
    best, weights = math.inf, copy.deepcopy(module.state_dict())
    last, cost, best_at = clock.used(), 0.0, clock.used()
    while True:
        over = clock.remaining() <= cost
        if over or clock.used() - last >= max(FIRST_VALIDATION * clock.budget, cost / VALIDATION_TIME):
            begun = clock.used()
            found = _validated(module, validation)
            if found < best:
                best, weights, best_at = found, copy.deepcopy(module.state_dict()), clock.used()
            elif patience is not None and clock.used() - best_at > patience * clock.budget:
                module.load_state_dict(weights)
                rate, best_at = rate / 2, clock.used()
                optimiser = torch.optim.Adam(module.parameters(), lr=rate)
            last = clock.used()
            cost = last - begun
        if over:
            break
        for group in optimiser.param_groups:
            group["lr"] = rate * (0.5 + 0.5 * math.cos(math.pi * clock.share())) if cosine else rate
        optimiser.zero_grad()
        loss().backward()
        if math.isfinite(float(nn.utils.clip_grad_norm_(module.parameters(), CLIP_NORM))):
            optimiser.step()
    module.load_state_dict(weights)
    module.eval()


def _validated(module: nn.Module, validation: Callable[[], float]) -> float:
    module.eval()
    with torch.no_grad():
        found = validation()
    module.train()
    return found

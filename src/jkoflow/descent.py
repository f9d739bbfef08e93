r"""Stochastic descent on a block's parameters: Adam, a cosine rate, averaged weights, the best of them kept.

    rate(i) = rate_0 min(1, (i+1)/warm_up) (f + (1-f) (1 + cos(pi i/updates))/2)

The weights that are judged and kept are an exponential moving average (Polyak & Juditsky 1992). No decision
reads a clock; a budget is asked, at checkpoints only, through `stop`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from jkoflow.errors import NumericalError

__all__ = ["Descent", "DescentSettings", "descend"]

_FINAL_FRACTION = 0.02
_WARM_UP = 50
_AVERAGE_DECAY = 0.98
_LARGEST_GRADIENT = 5.0
_RETRY_FACTOR = 0.3


@dataclass(frozen=True)
class DescentSettings:
    """How long and how boldly to descend.

    Arguments:
        updates: Limit in updates; the cosine ends there.
        batch: Rows of one update.
        learning_rate: Adam's rate after warm-up.
        checkpoints: How often the held-out value is taken over `updates`.
        patience: Checkpoints without improvement before stopping.
        retries: Restarts from the last good state, each at 0.3 of the rate before, when the numbers leave R.
    """

    updates: int
    batch: int
    learning_rate: float
    checkpoints: int = 20
    patience: int = 6
    retries: int = 3


@dataclass(frozen=True)
class Descent:
    """What a descent did.

    Arguments:
        updates: Updates made.
        best_update: The update whose averaged weights were kept; 0 for the start.
        first: Held-out value before the descent.
        best: Held-out value of what was kept.
        retries: Restarts that were needed.
    """

    updates: int
    best_update: int
    first: float
    best: float
    retries: int


class _DivergedError(Exception):
    """The loss or the held-out value is no longer finite; what was good until then is kept."""

    def __init__(self, kept: Descent, good: dict[str, Tensor]) -> None:
        super().__init__(kept.updates)
        self.kept, self.good = kept, good


def descend(
    module: nn.Module,
    *,
    loss: Callable[[], Tensor],
    evaluate: Callable[[], float],
    settings: DescentSettings,
    block: int,
    stop: Callable[[int], bool] = lambda update: False,
) -> Descent:
    """Descend in place; `module` ends with the averaged weights that were best on held-out rows.

    Arguments:
        module: What is trained.
        loss: A fresh stochastic loss at the module's current weights.
        evaluate: The held-out value at the module's current weights; smaller is better.
        settings: See `DescentSettings`.
        block: Number of the block, for messages.
        stop: Asked at each checkpoint with the number of updates made; True ends the descent.

    Raises:
        NumericalError: The numbers left R at every rate that was tried.
    """
    first = evaluate()
    good = copy.deepcopy(module.state_dict())
    kept = Descent(0, 0, first, first if math.isfinite(first) else math.inf, 0)
    rate = settings.learning_rate
    for attempt in range(settings.retries + 1):
        try:
            kept, good = _attempt(module, loss, evaluate, settings, rate, stop, kept, good)
        except _DivergedError as failure:
            kept, good = failure.kept, failure.good
            module.load_state_dict(good)
            rate *= _RETRY_FACTOR
            continue
        module.load_state_dict(good)
        module.zero_grad(set_to_none=True)
        return Descent(kept.updates, kept.best_update, first, kept.best, attempt)
    raise NumericalError(
        f"training diverged {settings.retries + 1} times, last at rate {rate / _RETRY_FACTOR:.1e}",
        block=block,
        step=kept.updates,
        remedy="use a smaller gamma, or more smoothing, or check the table for extreme rows",
    )


def _attempt(
    module: nn.Module,
    loss: Callable[[], Tensor],
    evaluate: Callable[[], float],
    settings: DescentSettings,
    rate: float,
    stop: Callable[[int], bool],
    kept: Descent,
    good: dict[str, Tensor],
) -> tuple[Descent, dict[str, Tensor]]:
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=rate, fused=parameters[0].device.type == "cpu" or None)
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(_AVERAGE_DECAY))  # type: ignore[no-untyped-call]  # torch
    every = max(1, settings.updates // settings.checkpoints)
    best, best_update, waited, seen = kept.best, kept.best_update, 0, torch.zeros(())
    for update in range(1, settings.updates + 1):
        for group in optimiser.param_groups:
            group["lr"] = rate * _relative_rate(update - 1, settings.updates)
        optimiser.zero_grad(set_to_none=True)
        value = loss()
        torch.autograd.backward(value)
        nn.utils.clip_grad_norm_(parameters, _LARGEST_GRADIENT)
        optimiser.step()
        average.update_parameters(module)
        seen = seen + value.detach()
        if update % every and update != settings.updates:
            continue
        current = _evaluate_average(module, average, evaluate)
        if not (math.isfinite(float(seen)) and math.isfinite(current)):
            raise _DivergedError(Descent(update, best_update, kept.first, best, 0), good)
        waited += 1
        if current < best:
            best, best_update, waited = current, update, 0
            good = copy.deepcopy(average.module.state_dict())
        if waited >= settings.patience or stop(update):
            break
    return Descent(update, best_update, kept.first, best, 0), good


def _relative_rate(update: int, updates: int) -> float:
    cosine = (1 + math.cos(math.pi * update / updates)) / 2
    return min(1.0, (update + 1) / _WARM_UP) * (_FINAL_FRACTION + (1 - _FINAL_FRACTION) * cosine)


def _evaluate_average(module: nn.Module, average: AveragedModel, evaluate: Callable[[], float]) -> float:
    """The held-out value at the averaged weights; the module's own are put back."""
    current = copy.deepcopy(module.state_dict())
    module.load_state_dict(average.module.state_dict())
    with torch.no_grad():
        value = evaluate()
    module.load_state_dict(current)
    return value

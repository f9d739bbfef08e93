r"""Stochastic descent on a block's parameters: Adam, a cosine rate, averaged weights, the best of them kept.

    rate(i) = rate_0 min(1, (i+1)/warm_up) (f + (1-f) (1 + cos(pi i/updates))/2)

The weights that are judged and kept are an exponential moving average (Polyak & Juditsky 1992). All of them
are one vector, so that an update is a dozen passes over it, whatever the number of layers. No decision reads
a clock; a budget is asked, at checkpoints only, through `stop`.

Source of the update: Kingma & Ba (2015), arXiv 1412.6980, algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from jkoflow.errors import NumericalError
from jkoflow.recipe.descent import DescentSettings

__all__ = ["AveragedAdam", "Descent", "descend"]


@dataclass(frozen=True)
class Descent:
    """What a descent did.

    Arguments:
        updates: Updates made.
        best_update: The update whose averaged weights were kept; 0 for the start.
        first: Validation value before the descent.
        best: Validation value of what was kept.
        retries: Restarts that were needed.
        history: Updates made and validation value at each checkpoint, of the last attempt.
    """

    updates: int
    best_update: int
    first: float
    best: float
    retries: int
    history: tuple[tuple[int, float], ...] = ()


class _DivergedError(Exception):
    """The loss or the validation value is no longer finite; what was good until then is kept."""

    def __init__(self, kept: Descent, good: Tensor) -> None:
        super().__init__(kept.updates)
        self.kept, self.good = kept, good


class _Weights:
    """What a module trains, as one vector.

    Arguments:
        module: It follows what is written.
    """

    def __init__(self, module: nn.Module) -> None:
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._sizes = [p.numel() for p in self._parameters]

    def read(self) -> Tensor:
        """A copy of the module's own."""
        return torch.cat([p.detach().reshape(-1) for p in self._parameters])

    @torch.no_grad()
    def write(self, vector: Tensor) -> None:
        """Give the module these."""
        for parameter, part in zip(self._parameters, torch.split(vector, self._sizes), strict=True):
            parameter.copy_(part.view_as(parameter))

    def gradient(self, value: Tensor) -> Tensor:
        """The gradient of `value`, zero where it does not depend on a weight."""
        parts = torch.autograd.grad(value, self._parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([part.reshape(-1) for part in parts])


class AveragedAdam:
    """Adam with clipped gradients, and the moving average of where it has been.

    Arguments:
        module: What it trains, in place.
        settings: Decays, the longest gradient, and the share of the newest weights in the average.
    """

    def __init__(self, module: nn.Module, settings: DescentSettings) -> None:
        self._weights, self._settings = _Weights(module), settings
        self._current = self._weights.read()
        self._first, self._second = torch.zeros_like(self._current), torch.zeros_like(self._current)
        self._updates = torch.zeros((), device=self._current.device)
        self._is_first = True
        self.average = self._current.clone()
        """The weights averaged over the updates so far, shape `(n_weights,)`."""

    def update(self, loss: Tensor, rate: float) -> None:
        """One update against the gradient of `loss` at the module's present weights."""
        settings, gradient = self._settings, self._weights.gradient(loss)
        gradient = gradient.mul_((settings.largest_gradient / (gradient.norm() + 1e-6)).clamp_(max=1.0))
        # in one pass through memory; in operations on vectors it takes eight times as long, and the class
        # Adam imports what compiles, which takes a second
        adam(
            [self._current],
            [gradient],
            [self._first],
            [self._second],
            [],
            [self._updates],
            fused=True,
            amsgrad=False,
            beta1=settings.first_decay,
            beta2=settings.second_decay,
            lr=rate,
            weight_decay=0.0,
            eps=settings.least_denominator,
            maximize=False,
        )
        self._weights.write(self._current)
        self.average.lerp_(self._current, 1.0 if self._is_first else settings.average_share)
        self._is_first = False

    @torch.no_grad()
    def at_average(self, evaluate: Callable[[], float]) -> float:
        """What `evaluate` says while the module has the averaged weights; then it has its own again."""
        self._weights.write(self.average)
        value = evaluate()
        self._weights.write(self._current)
        return value


def descend(
    module: nn.Module,
    *,
    loss: Callable[[], Tensor],
    evaluate: Callable[[], float],
    settings: DescentSettings,
    block: int | None,
    stop: Callable[[int], bool] = lambda update: False,
) -> Descent:
    """Descend in place; `module` ends with the averaged weights that were best on validation rows.

    Arguments:
        module: What is trained.
        loss: A fresh stochastic loss at the module's current weights.
        evaluate: The validation value at the module's current weights; smaller is better.
        settings: See `DescentSettings`.
        block: Number of the block, for messages; None for the blocks of a whole flow.
        stop: Asked at each checkpoint with the number of updates made; True ends the descent.

    Raises:
        NumericalError: The numbers left R at every rate that was tried.
    """
    first = evaluate()
    weights = _Weights(module)
    good = weights.read()
    kept = Descent(0, 0, first, first if math.isfinite(first) else math.inf, 0)
    rate = settings.learning_rate
    for attempt in range(settings.retries + 1):
        try:
            kept, good = _attempt(module, loss, evaluate, settings, rate, stop, kept, good)
        except _DivergedError as failure:
            kept, good = failure.kept, failure.good
            weights.write(good)
            rate *= settings.retry_factor
            continue
        weights.write(good)
        return replace(kept, first=first, retries=attempt)
    raise NumericalError(
        f"training diverged {settings.retries + 1} times, last at rate {rate / settings.retry_factor:.1e}",
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
    good: Tensor,
) -> tuple[Descent, Tensor]:
    optimiser, every = AveragedAdam(module, settings), max(1, settings.updates // settings.checkpoints)
    best, best_update, waited, seen = kept.best, kept.best_update, 0, torch.zeros(())
    history = list[tuple[int, float]]()
    for update in range(1, settings.updates + 1):
        value = loss()
        optimiser.update(value, rate * _relative_rate(update - 1, settings))
        seen = seen + value.detach()
        if update % every and update != settings.updates:
            continue
        current = optimiser.at_average(evaluate)
        if not (math.isfinite(float(seen)) and math.isfinite(current)):
            raise _DivergedError(Descent(update, best_update, kept.first, best, 0), good)
        history.append((update, current))
        waited += 1
        if current < best:
            best, best_update, waited, good = current, update, 0, optimiser.average.clone()
        if waited >= settings.patience or stop(update):
            break
    return Descent(update, best_update, kept.first, best, 0, tuple(history)), good


def _relative_rate(update: int, settings: DescentSettings) -> float:
    cosine = (1 + math.cos(math.pi * update / settings.updates)) / 2
    share = settings.final_fraction + (1 - settings.final_fraction) * cosine
    return min(1.0, (update + 1) / settings.warm_up) * share

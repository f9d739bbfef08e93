"""What the autoregressive contenders from zuko share: training by maximum likelihood, and the density.

min_theta  -E[log q_theta(x)],    x standardised, in batches
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from density import Reals, root_mean_square, seeded, split
from timed_descent import Clock, batches, descend
from torch import Tensor, nn

__all__ = ["ExactFlow", "fit_flow"]

CHUNK = 2000


@dataclass(frozen=True)
class ExactFlow:
    """A `Density` from a zuko flow whose log-determinant is exact."""

    flow: Any
    dim: int
    velocity_evaluations: None = None

    def log_prob(self, rows: Reals) -> Reals:
        with torch.no_grad():
            parts = [self.flow().log_prob(x) for x in torch.split(_float(rows), CHUNK)]
        return np.asarray(torch.cat(parts).double().numpy())

    def sample(self, n: int, seed: int) -> Reals:
        noise = torch.randn(n, self.dim, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            return np.asarray(self.flow().transform.inv(noise).double().numpy())

    def round_trip_error(self, rows: Reals) -> float:
        x, transform = _float(rows), self.flow().transform
        with torch.no_grad():
            return root_mean_square((transform.inv(transform(x)) - x).double().numpy())

    def log_prob_check(self, rows: Reals) -> None:
        del rows


def fit_flow(
    make: Callable[[int], nn.Module], train: Reals, *, budget: float, seed: int, batch: int, rate: float
) -> ExactFlow:
    """The flow that `make` gives for d columns, by maximum likelihood; a tenth of the rows stops it."""
    clock, dim = Clock(budget), train.shape[1]
    with seeded(seed):
        flow = make(dim)
        _maximise_likelihood(flow, train, clock=clock, seed=seed, batch=batch, rate=rate)
    return ExactFlow(flow, dim)


def _maximise_likelihood(
    flow: nn.Module, train: Reals, *, clock: Clock, seed: int, batch: int, rate: float
) -> None:
    fitted, held_out = (_float(part) for part in split(train, seed))
    draws = batches(fitted, batch, torch.Generator().manual_seed(seed))

    def loss() -> Tensor:
        return -flow().log_prob(next(draws)).mean()

    def validation() -> float:
        return float(torch.cat([-flow().log_prob(x) for x in torch.split(held_out, CHUNK)]).mean())

    descend(flow, loss, validation, clock=clock, rate=rate)


def _float(rows: Reals) -> Tensor:
    return torch.as_tensor(rows, dtype=torch.float32)

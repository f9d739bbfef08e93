"""Flow matching with independent coupling: one network regressed on straight paths, torchcfm's path.

    min_theta  E|v_theta(x_t, t) - (x_1 - x_0)|²,    x_t = (1 - t) x_0 + t x_1,    x_0 ~ N(0, I)

Source: Lipman et al. (2023), arXiv 2210.02747; Tong et al. (2024), arXiv 2302.00482, whose package
torchcfm draws x_t. Network 3x256 SiLU, Adam 1e-3 with a cosine, batch 512; the weights kept are those
with the least loss on validation rows, with noise and times that stay the same.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from density import Reals, seeded, split
from timed_descent import Clock, batches, descend
from torch import Tensor, nn
from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
from trace_integral import ContinuousFlow, Segment, in_double

SETTINGS_TRIED = 1
WIDTH, HIDDEN_LAYERS, BATCH, RATE = 256, 3, 512, 1e-3
VALIDATION_REPEATS = 4


class TimedPerceptron(nn.Module):
    """v(x, t), time as one more input."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise([dim + 1, *[WIDTH] * HIDDEN_LAYERS]):
            layers += [nn.Linear(n_in, n_out), nn.SiLU()]
        self.network = nn.Sequential(*layers, nn.Linear(WIDTH, dim))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Velocity at rows `(n, d)` and times `(n,)` or `()`, shape `(n, d)`."""
        velocity: Tensor = self.network(torch.cat([x, t.to(x).expand(len(x))[:, None]], dim=1))
        return velocity


def fit(train: Reals, *, budget: float, seed: int) -> ContinuousFlow:
    """Fit to the rows."""
    return match(ConditionalFlowMatcher(sigma=0.0), train, budget=budget, seed=seed)


def match(path: Any, train: Reals, *, budget: float, seed: int) -> ContinuousFlow:
    """Regress a network on the path of torchcfm's `path`."""
    clock, dim = Clock(budget), train.shape[1]
    fitted, held_out = (torch.as_tensor(part, dtype=torch.float32) for part in split(train, seed))
    draws = batches(fitted, BATCH, torch.Generator().manual_seed(seed))
    with seeded(seed):
        network = TimedPerceptron(dim)
        fixed = [_location(path, rows) for rows in torch.split(held_out.repeat(VALIDATION_REPEATS, 1), BATCH)]

        def loss() -> Tensor:
            return _squared_error(network, *_location(path, next(draws)))

        def validation() -> float:
            return float(torch.stack([_squared_error(network, *location) for location in fixed]).mean())

        descend(network, loss, validation, clock=clock, rate=RATE)
    return ContinuousFlow([Segment(in_double(network), 1.0, 0.0)], dim)


def _location(path: Any, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    t, x, velocity = path.sample_location_and_conditional_flow(torch.randn_like(rows), rows)
    return t, x, velocity


def _squared_error(network: nn.Module, t: Tensor, x: Tensor, velocity: Tensor) -> Tensor:
    return (network(t, x) - velocity).square().mean()

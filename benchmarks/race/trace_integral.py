r"""The density of a continuous flow, at a tolerance: dopri5 with the exact trace, in float64.

    dx/dt = v(x, t),    log p(x(0)) = log N(x(1); 0, I) + ∫_0^1 (div v)(x(t), t) dt

Time runs from data to noise, through one velocity or several in a row. The trace is the sum of d
directional derivatives by forward-mode differentiation. Source: Chen, Rubanova, Bettencourt & Duvenaud
(2018), arXiv 1806.07366, eq. (8); the solver is torchdiffeq's.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from density import Reals, root_mean_square
from torch import Tensor, nn
from torchdiffeq import odeint

__all__ = ["ContinuousFlow", "Segment", "Velocity", "in_double", "log_prob"]

TOLERANCE = 1e-5
CHECK_ROWS = 500
COUNTED_ROWS = 1000
TANGENTS_AT_ONCE = 50_000
"""Rows times columns of one integration, so that memory stays bounded."""

Velocity = Callable[[Tensor, Tensor], Tensor]
State = Any
"""A tensor, or a tuple of them."""
Field = Callable[..., State]


@dataclass(frozen=True)
class Segment:
    """A velocity v(t, x) and the times between which data goes towards noise."""

    velocity: Velocity
    start: float
    end: float

    def integrate(self, field: Field, state: State, tolerance: float, *, back: bool) -> State:
        """The state at the end, or at the start if `back`."""
        ends = (self.end, self.start) if back else (self.start, self.end)
        times = torch.tensor(ends, dtype=torch.float64)
        path = odeint(field, state, times, rtol=tolerance, atol=tolerance, method="dopri5")
        return tuple(part[-1] for part in path) if isinstance(path, tuple) else path[-1]


def log_prob(segments: Sequence[Segment], x: Tensor, tolerance: float) -> Tensor:
    """log p of rows `(n, d)`, shape `(n,)`, nats."""
    total = x.new_zeros(len(x))
    directions = torch.eye(x.shape[1], dtype=x.dtype)
    for segment in segments:

        def augmented(t: Tensor, state: State, of: Segment = segment) -> State:
            return _with_trace(of.velocity, t, state[0], directions)

        x, total = segment.integrate(augmented, (x, total), tolerance, back=False)
    return total - x.square().sum(dim=1) / 2 - x.shape[1] / 2 * math.log(2 * math.pi)


def _with_trace(velocity: Velocity, t: Tensor, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    def at(position: Tensor) -> Tensor:
        return velocity(t, position)

    def along(direction: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = torch.func.jvp(at, (x,), (direction.expand_as(x),))
        return value, slope @ direction

    values, slopes = torch.func.vmap(along, out_dims=(None, 0))(directions)
    return values, slopes.sum(dim=0)


@dataclass(frozen=True)
class ContinuousFlow:
    """A `Density` from velocities; sampling solves the same equation backwards.

    Arguments:
        segments: From data to noise.
        dim: d.
        tolerance: Relative and absolute, of the solver.
    """

    segments: Sequence[Segment]
    dim: int
    tolerance: float = TOLERANCE

    @property
    def velocity_evaluations(self) -> float:
        """Of one sample, while a thousand are drawn together."""
        count = 0

        def counting(velocity: Velocity) -> Velocity:
            def counted(t: Tensor, x: Tensor) -> Tensor:
                nonlocal count
                count += 1
                return velocity(t, x)

            return counted

        segments = [Segment(counting(part.velocity), part.start, part.end) for part in self.segments]
        ContinuousFlow(segments, self.dim, self.tolerance).sample(COUNTED_ROWS, 0)
        return float(count)

    def log_prob(self, rows: Reals) -> Reals:
        return self._log_prob(rows, self.tolerance)

    def log_prob_check(self, rows: Reals) -> float:
        rows = rows[:CHECK_ROWS]
        change = self._log_prob(rows, self.tolerance / 10) - self._log_prob(rows, self.tolerance)
        return float(np.abs(change).mean())

    def sample(self, n: int, seed: int) -> Reals:
        noise = torch.randn(n, self.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return np.asarray(self._move(noise, back=True).numpy())

    def round_trip_error(self, rows: Reals) -> float:
        x = torch.as_tensor(rows)
        return root_mean_square((self._move(self._move(x, back=False), back=True) - x).numpy())

    def _log_prob(self, rows: Reals, tolerance: float) -> Reals:
        chunks = torch.split(torch.as_tensor(rows), max(1, TANGENTS_AT_ONCE // self.dim))
        with torch.no_grad():
            return np.asarray(torch.cat([log_prob(self.segments, x, tolerance) for x in chunks]).numpy())

    @torch.no_grad()
    def _move(self, x: Tensor, *, back: bool) -> Tensor:
        for part in reversed(self.segments) if back else self.segments:
            x = part.integrate(part.velocity, x, self.tolerance, back=back)
        return x


def in_double(module: nn.Module) -> nn.Module:
    """A copy in float64: the solver's error is then not the rounding of the network."""
    return copy.deepcopy(module).double().eval()

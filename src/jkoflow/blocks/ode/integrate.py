r"""Solves dx/dt = v(x, t) over block time [0, 1]: the only module that knows an ODE solver.

    x_{k+1} = x_k + (h/6) (k_1 + 2 k_2 + 2 k_3 + k_4),   h = 1/steps      (classical Runge-Kutta, order 4)

A Runge-Kutta step commutes with differentiation: carrying tangents by the variational equation
dJ/dt = (dv/dx) J along the same stages gives the Jacobian of the *discrete* map, not of the exact flow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Derivative", "State", "dopri5", "rk4"]

State: TypeAlias = tuple[Tensor, ...]
Derivative: TypeAlias = Callable[[float, State], State]


def rk4(derivative: Derivative, state: State, *, steps: int, reverse: bool = False) -> State:
    """Integrate `state` over [0, 1] in `steps` equal steps; from 1 back to 0 if `reverse`."""
    start, h = (1.0, -1.0 / steps) if reverse else (0.0, 1.0 / steps)
    for step in range(steps):
        t = start + step * h
        k1 = derivative(t, state)
        k2 = derivative(t + h / 2, _advance(state, h / 2, k1))
        k3 = derivative(t + h / 2, _advance(state, h / 2, k2))
        k4 = derivative(t + h, _advance(state, h, k3))
        state = tuple(
            s.add(a.add(b + c, alpha=2).add(d), alpha=h / 6)
            for s, a, b, c, d in zip(state, k1, k2, k3, k4, strict=True)
        )
    return state


def _advance(state: State, h: float, slope: State) -> State:
    return tuple(s.add(k, alpha=h) for s, k in zip(state, slope, strict=True))


def dopri5(
    velocity: Callable[[float | Tensor, Tensor], Tensor],
    x: Tensor,
    *,
    tolerance: float,
    reverse: bool = False,
) -> Tensor:
    """The exact flow to `tolerance` by adaptive Dormand-Prince 5(4): only a diagnostic of the map."""
    from torchdiffeq import odeint  # here, since fitting and sampling never need it

    ends = torch.tensor([1.0, 0.0] if reverse else [0.0, 1.0], dtype=x.dtype, device=x.device)
    path: Tensor = odeint(
        lambda t, y: velocity(t, y), x, ends, rtol=tolerance, atol=tolerance, method="dopri5"
    )
    return path[-1]

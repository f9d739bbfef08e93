r"""A neural-ODE block: T is the Runge-Kutta map of dx/dt = v_theta(x, t) over block time [0, 1].

    T(x) = RK4_steps(v_theta)(x),    log|det dT(x)| from d tangents carried through the same stages

The map that is trained, pushed, inverted and scored is this discrete one; the exact flow never enters.
Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (20)-(21); the discrete determinant is ours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jkoflow.blocks.base import Block, Inverse, default_tolerance
from jkoflow.divergence import exact_probes, velocity_and_divergence
from jkoflow.errors import InputError
from jkoflow.integrate import State, dopri5, rk4
from jkoflow.velocity import VelocityField

__all__ = ["DETERMINANT_DIM", "NeuralODEBlock"]

DETERMINANT_DIM = 128
"""Largest dimension whose `log_det` is the determinant of the discrete map; beyond, the trace."""

_REFINEMENTS = 60
"""Most corrections of an inverse before Newton's method takes over."""
_NEWTON_STEPS = 30


class NeuralODEBlock(Block):
    """The flow map of a velocity field, discretised once and for all.

    Arguments:
        velocity: v_theta.
        gamma: Step size of the proximal step; infinite for a free step.
        steps: Runge-Kutta steps over block time [0, 1].
        trace_gap_nats: Beyond `DETERMINANT_DIM`, the measured difference between trace and determinant.
    """

    def __init__(
        self, velocity: VelocityField, *, gamma: float, steps: int = 1, trace_gap_nats: float | None = None
    ) -> None:
        super().__init__(dim=velocity.dim, gamma=gamma)
        if steps < 1:
            raise InputError(f"steps: expected at least 1 solver step, got {steps}")
        self.velocity, self.steps, self.trace_gap_nats = velocity, steps, trace_gap_nats

    def to_config(self) -> dict[str, Any]:
        """Plain settings; the network's numbers are in the state."""
        return {
            "kind": "neural_ode",
            "gamma": None if self.free else self.gamma,
            "steps": self.steps,
            "trace_gap_nats": self.trace_gap_nats,
            "velocity": self.velocity.to_config(),
        }

    def push(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """T(x), shape `(n, d)`."""
        return self._flow(x, context, steps=self.steps)

    def push_with_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """T(x) and its log-determinant, nats; beyond `DETERMINANT_DIM` the trace, checked when trained."""
        if self.dim > DETERMINANT_DIM:
            return self.push_with_trace(x, context, exact_probes(x))
        y, jacobian = self.push_with_jacobian(x, context)
        return y, torch.linalg.slogdet(jacobian)[1]

    def push_with_jacobian(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """T(x) and dT(x), shapes `(n, d)` and `(n, d, d)`; column j is the derivative along coordinate j."""

        def derivative(t: float, state: State) -> State:
            return self.velocity.with_tangents(state[0], t, state[1], context)

        y, tangents = rk4(derivative, (x, exact_probes(x)), steps=self.steps)
        return y, tangents.permute(1, 2, 0)

    def push_with_trace(self, x: Tensor, context: Tensor | None, probes: Tensor) -> tuple[Tensor, Tensor]:
        """T(x) and the divergence integrated along the same stages, estimated by `probes` `(k, n, d)`."""

        def derivative(t: float, state: State) -> State:
            return velocity_and_divergence(self.velocity, state[0], t, probes, context)

        y, log_det = rk4(derivative, (x, x.new_zeros(len(x))), steps=self.steps)
        return y, log_det

    @torch.no_grad()
    def invert(self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None) -> Inverse:
        r"""Integrate backward, then correct until the *discrete* map's round trip meets the tolerance.

        With B the backward integration, `z <- z + (y - T(B(z)))` contracts since `T(B(.))` is nearly the
        identity; rows on which it does not are finished by Newton's method on T. A row that misses the
        tolerance is returned with its error, the smallest that was reached.
        """
        goal = default_tolerance(y.dtype) if tolerance is None else tolerance
        z, x = y, self._flow(y, context, steps=self.steps, reverse=True)
        residual = y - self.push(x, context)
        best = Inverse(x, residual.norm(dim=1))
        for _ in range(_REFINEMENTS):
            open_rows = (best.error > goal).nonzero()[:, 0]
            if len(open_rows) == 0:
                return best
            z = z.index_copy(0, open_rows, z[open_rows] + residual[open_rows])
            part = _rows(context, open_rows)
            candidate = self._flow(z[open_rows], part, steps=self.steps, reverse=True)
            residual[open_rows] = y[open_rows] - self.push(candidate, part)
            improved = _keep_better(best, open_rows, candidate, residual[open_rows].norm(dim=1))
            if not improved:
                break
        return self._newton(best, y, context, goal)

    @torch.no_grad()
    def step_doubling_error(self, x: Tensor, context: Tensor | None = None) -> float:
        """Root mean square distance between T and the same field at twice the steps, standardised units."""
        gap = self.push(x, context) - self._flow(x, context, steps=2 * self.steps)
        return float(gap.square().sum(dim=1).mean().sqrt())

    @torch.no_grad()
    def exact_flow(self, x: Tensor, context: Tensor | None = None, *, tolerance: float = 1e-6) -> Tensor:
        """Where the undiscretised ODE takes `x`, by adaptive dopri5: a diagnostic, never the model's map."""
        return dopri5(lambda t, at: self.velocity(at, t, context), x, tolerance=tolerance)

    def _flow(self, x: Tensor, context: Tensor | None, *, steps: int, reverse: bool = False) -> Tensor:
        def derivative(t: float, state: State) -> State:
            return (self.velocity(state[0], t, context),)

        return rk4(derivative, (x,), steps=steps, reverse=reverse)[0]

    def _newton(self, best: Inverse, y: Tensor, context: Tensor | None, goal: float) -> Inverse:
        for _ in range(_NEWTON_STEPS):
            open_rows = (best.error > goal).nonzero()[:, 0]
            if len(open_rows) == 0:
                break
            part = _rows(context, open_rows)
            image, jacobian = self.push_with_jacobian(best.x[open_rows], part)
            move, singular = torch.linalg.solve_ex(jacobian, y[open_rows] - image)
            move = torch.where(singular[:, None] > 0, torch.zeros_like(move), move)
            improved = False
            for damping in (1.0, 0.25, 0.05):
                candidate = best.x[open_rows] + damping * move
                error = (y[open_rows] - self.push(candidate, part)).norm(dim=1)
                improved = _keep_better(best, open_rows, candidate, error) or improved
            if not improved:
                break
        return best


def _rows(context: Tensor | None, index: Tensor) -> Tensor | None:
    return None if context is None else context[index]


def _keep_better(best: Inverse, rows: Tensor, candidate: Tensor, error: Tensor) -> bool:
    """Overwrite the rows of `best` that `candidate` improves; say whether any did."""
    better = error < best.error[rows]
    best.x[rows[better]] = candidate[better]
    best.error[rows[better]] = error[better]
    return bool(better.any())

r"""A neural-ODE block: T is the Runge-Kutta map of dx/dt = v_theta(x, t) over block time [0, 1].

    T(x) = RK4_steps(v_theta)(x),    log|det dT(x)| from d tangents carried through the same stages

The map that is trained, pushed, inverted and scored is this discrete one; the exact flow never enters.
Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (20)-(21); the discrete determinant is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jkoflow.blocks.base import Block, Inverse, default_tolerance
from jkoflow.blocks.ode.integrate import State, dopri5, rk4
from jkoflow.blocks.ode.trace import exact_probes, velocity_and_divergence
from jkoflow.blocks.ode.velocity import VelocityField
from jkoflow.errors import InputError

__all__ = ["DETERMINANT_DIM", "NeuralODEBlock", "broyden_step"]

DETERMINANT_DIM = 128
"""Largest dimension whose `log_det` is the determinant of the discrete map; beyond, the trace."""

_CORRECTIONS_OF_ALL, _MOST_CORRECTIONS, _REFINED_TOGETHER = 2, 12, 64
"""All rows get the first corrections, so that most have what they need; those that have not are worked on so
many at a time, filled up by repetition: what a product of matrices rounds to depends on their size, and a
row's numbers must not depend on other rows."""
_NEWTON_STEPS = 30
_LEAST_PIVOT = 0.1
"""Of a rank-one update: below, the update is left out."""


class _Search(NamedTuple):
    """How far the inversion of some rows has come.

    Arguments:
        best: The best inverse so far.
        z: Corrected images.
        active: Which rows go on.
        steps: Broyden's steps of z so far and the next one, each `(n, d)`, zero where a row was done.
    """

    best: Inverse
    z: Tensor
    active: Tensor
    steps: tuple[Tensor, ...]

    def rows(self, index: Tensor) -> _Search:
        best = Inverse(self.best.x[index], self.best.error[index])
        return _Search(best, self.z[index], self.active[index], tuple(step[index] for step in self.steps))


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
        """T(x) and dT(x): one tangent for each coordinate is carried through the stages."""

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

        With B the backward integration, T(B(.)) is nearly the identity, so that Broyden's method, which
        starts from the identity as Jacobian, solves T(B(z)) = y in a few corrections of z; rows that it does
        not settle are finished by Newton's method on T. A row that misses the tolerance is returned with its
        error, the smallest that was reached. Source: Kelley (1995), "Iterative Methods for Linear and
        Nonlinear Equations", section 7.3, for the form that keeps nothing but steps.
        """
        goal = default_tolerance(y.dtype) if tolerance is None else tolerance
        x = self._flow(y, context, steps=self.steps, reverse=True)
        residual = y - self.push(x, context)
        best = Inverse(x, _length(residual))
        active = best.error > goal
        first = _Search(best, y, active, (torch.where(active[:, None], residual, 0.0),))
        found = self._corrected(first, y, context, goal, most=_CORRECTIONS_OF_ALL)
        x, error = found.best.x, found.best.error
        missed = (error > goal).nonzero().squeeze(1)
        for start in range(0, len(missed), _REFINED_TOGETHER):
            part = missed[start : start + _REFINED_TOGETHER]
            rows = torch.cat([part, part[:1].expand(_REFINED_TOGETHER - len(part))])
            given = None if context is None else context[rows]
            search = self._corrected(found.rows(rows), y[rows], given, goal, most=_MOST_CORRECTIONS)
            refined = self._newton(search.best, y[rows], given, goal)
            x[rows], error[rows] = refined.x, refined.error
        return Inverse(x, error)

    def _corrected(
        self, search: _Search, y: Tensor, context: Tensor | None, goal: float, *, most: int
    ) -> _Search:
        """At most so many corrections of the rows that are active."""
        best, z, active, steps = search
        for _ in range(most):
            if not active.any():
                break
            z = z + steps[-1]
            candidate = self._flow(z, context, steps=self.steps, reverse=True)
            residual = y - self.push(candidate, context)
            best, improved = _better(best, candidate, _length(residual), active)
            active = improved & (best.error > goal)
            steps = (*steps, torch.where(active[:, None], broyden_step(residual, steps), 0.0))
        return _Search(best, z, active, steps)

    @property
    def solver_steps(self) -> int:
        """Runge-Kutta steps."""
        return self.steps

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
        active = best.error > goal
        for _ in range(_NEWTON_STEPS):
            if not active.any():
                break
            image, jacobian = self.push_with_jacobian(best.x, context)
            move, singular = torch.linalg.solve_ex(jacobian, y - image)
            start, move, waiting = best.x, torch.where(singular[:, None] > 0, 0.0, move), active
            for damping in (1.0, 0.25, 0.05):
                candidate = start + damping * move
                best, closer = _better(best, candidate, _length(y - self.push(candidate, context)), waiting)
                waiting = waiting & ~closer
                if not waiting.any():
                    break
            active = active & ~waiting & (best.error > goal)
        return best


# Among rows that are worked on together they are masked, not selected, for the same reason.


def broyden_step(residual: Tensor, steps: Sequence[Tensor]) -> Tensor:
    """The step after `steps` that Broyden's updates of the identity ask for, each row by itself."""
    step = residual
    for earlier, later in pairwise(steps):
        step = step + later * _share(step, earlier)
    pivot = 1 - _share(step, steps[-1])
    return torch.where(pivot.abs() < _LEAST_PIVOT, step, step / pivot)


def _share(step: Tensor, along: Tensor) -> Tensor:
    """step . along / |along|^2 of each row, shape `(n, 1)`; 0 where `along` is."""
    square = along.square().sum(dim=1, keepdim=True)
    return (step * along).sum(dim=1, keepdim=True) / square.clamp_min(torch.finfo(step.dtype).tiny)


def _length(residual: Tensor) -> Tensor:
    """Norm of each row; infinite where a number is not one, so that it never counts as good."""
    length: Tensor = residual.norm(dim=1)
    return length.nan_to_num(nan=torch.inf)


def _better(best: Inverse, candidate: Tensor, error: Tensor, active: Tensor) -> tuple[Inverse, Tensor]:
    """`best` with the active rows that `candidate` improves, and which those are."""
    improved = active & (error < best.error)
    x = torch.where(improved[:, None], candidate, best.x)
    return Inverse(x, torch.where(improved, error, best.error)), improved

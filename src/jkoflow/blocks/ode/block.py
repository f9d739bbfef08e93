r"""A neural-ODE block: T is the Runge-Kutta map of dx/dt = v_theta(x, t) over block time [0, 1].

    T(x) = RK4_steps(v_theta)(x),    log|det dT(x)| from d tangents carried through the same stages

The map that is trained, pushed, inverted and scored is this discrete one; the exact flow never enters.
Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (20)-(21); the discrete determinant is ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from jkoflow.blocks.base import Block, Inverse, InverseLipschitz, Shape, default_tolerance
from jkoflow.blocks.inverse import InverseSearch
from jkoflow.blocks.judge import Judge
from jkoflow.blocks.ode.integrate import State, dopri5, rk4
from jkoflow.blocks.ode.lipschitz import flow_inverse_lipschitz
from jkoflow.blocks.ode.refine import checked_trace, fewest_steps, invertible, unfolded
from jkoflow.blocks.ode.trace import exact_probes, velocity_and_divergence
from jkoflow.blocks.ode.velocity import VelocityField, velocity_from_config, velocity_kind
from jkoflow.counts import checked_count
from jkoflow.storage.entries import checked_real, checked_whole, require_names

__all__ = ["NeuralODEBlock"]


class NeuralODEBlock(Block):
    """The flow map of a velocity field, discretised once and for all.

    Arguments:
        velocity: v_theta.
        gamma: Step size of the proximal step; infinite for a free step.
        steps: Runge-Kutta steps over block time [0, 1].
        trace_gap_nats: Where the block is scored by its trace, the measured difference between trace and
            determinant.
    """

    def __init__(
        self, velocity: VelocityField, *, gamma: float, steps: int = 1, trace_gap_nats: float | None = None
    ) -> None:
        super().__init__(dim=velocity.dim, gamma=gamma)
        self.velocity, self.steps, self.trace_gap_nats = (
            velocity,
            checked_count(steps, "steps"),
            trace_gap_nats,
        )

    determinant_dim: ClassVar[int] = 128
    """Columns up to which `log_det` is the determinant of the discrete map; beyond, it is the trace."""

    most_steps: ClassVar[int] = 4096
    """Solver steps of a stored block, at most: training ends at 32, doubled at most six times."""

    @property
    def conditioned_on(self) -> int | None:
        return self.velocity.context_dim

    @property
    def is_scored_by_trace(self) -> bool:
        return self.dim > self.determinant_dim

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
        """T(x) and its log-determinant, nats; of many columns the trace, checked when trained."""
        if self.is_scored_by_trace:
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

    def invert(self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None) -> Inverse:
        """Integrate backward, then correct until the *discrete* map's round trip meets the tolerance."""
        goal = default_tolerance(y.dtype) if tolerance is None else tolerance
        return InverseSearch().invert(self, self._backward, y, context, goal)

    @classmethod
    def stored_shapes(
        cls, settings: Mapping[str, Any], found: Mapping[str, Shape]
    ) -> Iterable[tuple[str, Shape]]:
        del found
        require_names(settings, {"gamma", "steps", "velocity"}, optional={"trace_gap_nats"})
        checked_whole(settings, "steps", least=1, most=cls.most_steps)
        if settings.get("trace_gap_nats") is not None:
            checked_real(settings, "trace_gap_nats")
        kind, network = velocity_kind(settings["velocity"])
        return ((f"velocity.{name}", shape) for name, shape in kind.stored_shapes(network))

    def check_numbers(self) -> None:
        self.velocity.check_numbers()

    @classmethod
    def from_config(cls, settings: dict[str, Any]) -> Self:
        return cls(**{**settings, "velocity": velocity_from_config(settings["velocity"])})

    def inverse_lipschitz(self, context: Tensor | None = None) -> InverseLipschitz:
        constant = self.velocity.lipschitz(steps=self.steps, context=context)
        return flow_inverse_lipschitz(constant, steps=self.steps)

    @property
    def velocity_field(self) -> VelocityField:
        """v_theta."""
        return self.velocity

    def settled(self, judge: Judge) -> NeuralODEBlock:
        return fewest_steps(self, judge)

    def mended(self, judge: Judge) -> NeuralODEBlock:
        return invertible(self, judge)

    def unfolded(self, judge: Judge) -> NeuralODEBlock:
        return unfolded(self, judge)

    def checked(self, judge: Judge) -> NeuralODEBlock:
        return checked_trace(self, judge) if self.is_scored_by_trace else self

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

    def _backward(self, y: Tensor, context: Tensor | None) -> Tensor:
        return self._flow(y, context, steps=self.steps, reverse=True)

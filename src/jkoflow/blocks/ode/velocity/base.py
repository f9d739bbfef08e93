r"""What a velocity field is: v_theta(x, t), the right-hand side of one block's ODE dx/dt = v_theta(x, t).

Time runs over [0, 1] inside a block whatever its step size gamma, so that changing gamma never changes a
trained map (Cheng, Lu, Tan & Xie 2024, arXiv 2310.17582, eq. 20-21, with time rescaled).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from jkoflow.blocks.finite import require_finite

__all__ = ["VelocityField"]


class VelocityField(nn.Module, ABC):
    """A vector field on R^d that depends on time and, where there is one, on a context.

    Arguments:
        dim: d, the dimension of x.
        context_dim: c, the number of context columns; 0 for none.
    """

    def __init__(self, *, dim: int, context_dim: int = 0) -> None:
        super().__init__()
        self.dim, self.context_dim = dim, context_dim

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor | float, context: Tensor | None = None) -> Tensor:
        """Velocity at `x` `(n, d)` and time `t` (a number, or one per row `(n, 1)`), shape `(n, d)`."""

    @abstractmethod
    def to_config(self) -> dict[str, Any]:
        """Plain settings from which `velocity_from_config` builds a field of the same architecture."""

    @classmethod
    def stored_shapes(cls, settings: Mapping[str, Any]) -> Iterable[tuple[str, tuple[int, ...]]]:
        """Name and shape of each tensor of a field of `to_config` without `kind`, one at a time.

        Raises:
            ValueError: A setting is missing, unknown, or out of range.
        """
        return ((name, tuple(part.shape)) for name, part in cls(**settings).state_dict().items())

    def check_numbers(self) -> None:
        """Refuse numbers from a file by which nothing can be computed: none may be NaN or infinite.

        Raises:
            ValueError: Such numbers; the message names their tensor.
        """
        require_finite(self.state_dict())

    def set_reach(self, x: Tensor, *, displacement: float) -> None:
        """Adapt to where the particles `x` are and how far to move them; before training only."""
        del x, displacement

    def lipschitz(self, *, steps: int = 1, context: Tensor | None = None) -> float:
        """K with |v(x, t) - v(y, t)| <= K |x - y| for all x and y; infinite where none is known.

        Arguments:
            steps: Runge-Kutta steps over [0, 1], at whose stage times t it should hold.
            context: Contexts for which it should hold, shape `(m, c)`.
        """
        del steps, context
        return math.inf

    def with_tangents(
        self, x: Tensor, t: Tensor | float, tangents: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Velocity, and its derivative along k directions for each row, by forward-mode differentiation.

        Arguments:
            x: Positions, shape `(n, d)`.
            t: Time, a number in [0, 1].
            tangents: Directions, shape `(k, n, d)`.
            context: Context, shape `(n, c)`, or None.

        Returns:
            Velocities `(n, d)` and directional derivatives `(k, n, d)`.
        """

        def field(position: Tensor) -> Tensor:
            return self.forward(position, t, context)

        derivatives = torch.func.vmap(lambda v: torch.func.jvp(field, (x,), (v,))[1])(tangents)
        values: Tensor = field(x)
        return values, derivatives

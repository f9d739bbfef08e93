r"""What a block is: an invertible map T of R^d with its log-determinant, the result of one proximal step.

    p_n = (T_n)_# p_{n-1},      log p_n(T_n(x)) = log p_{n-1}(x) - log|det dT_n(x)|

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (20)-(23).
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor, nn

from jkoflow.blocks.finite import require_finite
from jkoflow.laws import Law

if TYPE_CHECKING:
    from jkoflow.blocks.judge import Judge
    from jkoflow.blocks.ode.velocity import VelocityField

__all__ = ["Block", "Inverse", "InverseLipschitz", "Shape", "Source", "default_tolerance"]

Shape = tuple[int, ...]
"""Of a tensor."""


@dataclass(frozen=True)
class Inverse:
    """An inverse image and how good it is.

    Arguments:
        x: The inverse image, shape `(n, d)`.
        error: Round-trip error `|T(x) - y|` of each row, shape `(n,)`, standardised units.
    """

    x: Tensor
    error: Tensor


def default_tolerance(dtype: torch.dtype) -> float:
    """Round-trip error asked of an inverse when the caller names none, standardised units."""
    return 1e-10 if dtype == torch.float64 else 2e-6


@dataclass(frozen=True)
class InverseLipschitz:
    """A Lipschitz constant of T^-1.

    Arguments:
        bound: Upper bound of Lip(T^-1); infinite where none is known or it is too large for a float.
        proven: Whether the bound is proven for the inverse of the discrete map itself.
        assumption: What the bound rests on where it is not proven.
    """

    bound: float
    proven: bool
    assumption: str = ""


class Source(Protocol):
    """A law that a block takes to the law at the end of the flow, in closed form."""

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density at x, shape `(n,)`, nats, float64."""

    def draw(self, noise: Tensor, context: Tensor | None = None) -> Tensor:
        """Rows of the law, shape `(n, d)`, float64.

        Arguments:
            noise: Standard normal, shape `(n, d)`, float64; a row of it makes a row, not its inverse image.
            context: Shape `(n, c)`, or None.
        """


class SourcedMap(Protocol):
    """A block that computes the density of the law that it takes to N(0, I), and draws from it."""

    def source_log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """See `Source.log_prob`."""

    def source_draw(self, noise: Tensor, context: Tensor | None = None) -> Tensor:
        """See `Source.draw`."""


@dataclass(frozen=True)
class KnownSource:
    """The `Source` of such a block.

    Arguments:
        block: The block.
    """

    block: SourcedMap

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density at x, shape `(n,)`, nats, float64."""
        return self.block.source_log_prob(x, context)

    def draw(self, noise: Tensor, context: Tensor | None = None) -> Tensor:
        """Rows of the law, shape `(n, d)`, float64."""
        return self.block.source_draw(noise, context)


class Block(nn.Module, ABC):
    """One step of the flow.

    Arguments:
        dim: d.
        gamma: Step size of the proximal step that the block solves, or comes nearest to; infinite for a free
            step.
    """

    def __init__(self, *, dim: int, gamma: float) -> None:
        super().__init__()
        self.dim, self.gamma = dim, float(gamma)

    @abstractmethod
    def push(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """T(x), shape `(n, d)`."""

    @abstractmethod
    def push_with_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """T(x) and `log|det dT(x)|` of the map that `push` computes, shapes `(n, d)` and `(n,)`, nats."""

    @abstractmethod
    def push_with_jacobian(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """T(x) and dT(x), shapes `(n, d)` and `(n, d, d)`; column j is the derivative along coordinate j."""

    @abstractmethod
    def push_with_trace(self, x: Tensor, context: Tensor | None, probes: Tensor) -> tuple[Tensor, Tensor]:
        """T(x) and the log-determinant that training may see: a trace along `probes` `(k, n, d)`."""

    @abstractmethod
    def invert(self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None) -> Inverse:
        """The x with T(x) = y to `tolerance` per row, with the error that was reached."""

    @abstractmethod
    def to_config(self) -> dict[str, Any]:
        """Plain settings from which `block_from_config` builds a block of the same shape."""

    @property
    def conditioned_on(self) -> int | None:
        """Context columns that the map takes; None where it takes any number of them and looks at none."""
        return getattr(self, "context_dim", None)

    @classmethod
    def stored_shapes(
        cls, settings: Mapping[str, Any], found: Mapping[str, Shape]
    ) -> Iterable[tuple[str, Shape]]:
        """Name and shape of each tensor of a block of these settings, one at a time.

        By them a file is checked before a block is made by settings that may say anything. So a kind of block
        computes them without making one, or first refuses settings that ask for more than was found.

        Arguments:
            settings: `to_config` without `kind`.
            found: The tensors that there are, by name.

        Raises:
            ValueError: A setting is missing, unknown, or out of range.
        """
        del found
        return (
            (name, tuple(part.shape)) for name, part in cls.from_config({**settings}).state_dict().items()
        )

    def check_numbers(self) -> None:
        """Refuse numbers from a file by which nothing can be computed: none may be NaN or infinite.

        Raises:
            ValueError: Such numbers; the message names their tensor.
        """
        require_finite(self.state_dict())

    @classmethod
    def from_config(cls, settings: dict[str, Any]) -> Self:
        """Build the block from its `to_config` without `kind`; its numbers come from a state dict later."""
        return cls(**settings)

    def pull(self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None) -> Tensor:
        """T^-1(y), shape `(n, d)`."""
        return self.invert(y, context, tolerance=tolerance).x

    @property
    def free(self) -> bool:
        """Whether the step has no transport term (gamma infinite)."""
        return math.isinf(self.gamma)

    @property
    def solver_steps(self) -> int:
        """Steps whose intermediate numbers a graph of the map keeps; 1 where there is no solver."""
        return 1

    def as_step_of(self, gamma: float) -> Self:
        """The same map, named as the proximal step of size `gamma`."""
        named = copy.copy(self)
        named.gamma = float(gamma)
        return named

    def step_doubling_error(self, x: Tensor, context: Tensor | None = None) -> float:
        """Root mean square of T minus the block at twice the solver steps; 0 where there is no solver."""
        del x, context
        return 0.0

    def inverse_lipschitz(self, context: Tensor | None = None) -> InverseLipschitz:
        """A bound on Lip(T^-1) from the numbers of the block alone; by default nothing is known.

        Arguments:
            context: The contexts for which it should hold, shape `(m, c)`; those of the rows.
        """
        del context
        return InverseLipschitz(math.inf, proven=False, assumption=f"{type(self).__name__}: no bound known")

    @property
    def can_fold(self) -> bool:
        """Whether training may lead to a map with det dT < 0 somewhere, which no density has."""
        return True

    @property
    def is_scored_by_trace(self) -> bool:
        """Whether `push_with_log_det` gives an integrated trace, the determinant but for an error."""
        return False

    @property
    def velocity_field(self) -> VelocityField | None:
        """The field whose flow the map is, which regression on a path can fit; None where there is none."""
        return None

    def source(self, law: Law) -> Source | None:
        """The law that T takes to `law`, where it has a closed form."""
        del law
        return None

    def settled(self, judge: Judge) -> Block:
        """The block at the fewest solver steps that validation rows allow; unchanged without a solver."""
        del judge
        return self

    def mended(self, judge: Judge) -> Block:
        """The block at more solver steps, if its map cannot be inverted; unchanged where it has no solver."""
        del judge
        return self

    def unfolded(self, judge: Judge) -> Block:
        """The block at more solver steps, if its map folds; unchanged where it has no solver."""
        del judge
        return self

    def checked(self, judge: Judge) -> Block:
        """The block at steps where its trace agrees with the determinant; unchanged if it has no trace."""
        del judge
        return self

"""A law on R^d: its potential V and lambda, its density where it is normalised, and draws from it.

    log q(x) = -V(x) - log Z,    Z = ∫ exp(-V),    ∇²V >= lambda I

(theory: "Objects", from Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582.) A law is a value: it holds float64
numbers on the CPU, and its methods cast them to the dtype and device of the points they are given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from jkoflow.counts import checked_count
from jkoflow.errors import InputError
from jkoflow.storage.memory import require_memory

__all__ = ["Entropy", "Law", "check_points"]


class Entropy(NamedTuple):
    """Differential entropy -E log q in nats, with its standard error (0 where the value is exact)."""

    value: float
    se: float


def check_points(x: Tensor, dim: int) -> None:
    """Refuse points that are not floating point of shape `(..., dim)`.

    Raises:
        InputError: Another last dimension, or a dtype that is not real floating point.
    """
    if x.ndim == 0 or x.shape[-1] != dim:
        raise InputError(f"points of a law: expected shape (..., {dim}), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise InputError(f"points of a law: expected a floating-point dtype, got {x.dtype}; use x.double()")


def checked_draws(n: object, dim: int) -> int:
    """The number of draws as an `int`, 0 or more.

    Raises:
        InputError: It is no such number, or so many draws of `dim` coordinates do not fit in memory.
    """
    count = checked_count(n, "n", least=0)
    what = f"n: expected draws that fit in memory, got {count:,} of {dim:,} coordinates"
    require_memory(2 * 8 * count * dim, what, remedy="draw fewer at a time, all from the same generator")
    return count


class Law(ABC):
    """A probability law on R^d with a known density.

    Subclasses are final frozen dataclasses: `dim`, `lam`, `log_normaliser`, `potential` and `sample`.

    Attributes:
        dim: Dimension d.
    """

    dim: int

    @property
    @abstractmethod
    def lam(self) -> float | None:
        """lambda > 0 with ∇²V >= lambda I everywhere; None where V is not strongly convex."""

    @property
    def is_standard(self) -> bool:
        """Whether this is N(0, I), which closed-form maps and the Ornstein-Uhlenbeck path end at."""
        return False

    @property
    def quadratic(self) -> tuple[Tensor, Tensor] | None:
        """Centre b `(d,)` and matrix A `(d, d)` of V(x) = (x-b)ᵀ A (x-b)/2; None where V is not quadratic."""
        return None

    @property
    @abstractmethod
    def log_normaliser(self) -> float:
        """log Z = log ∫ exp(-V), in nats."""

    @abstractmethod
    def potential(self, x: Tensor) -> Tensor:
        """V(x) in nats.

        Arguments:
            x: Points, shape `(..., d)`.

        Returns:
            V, shape `(...)`, dtype and device of x; differentiable in x.

        Raises:
            InputError: Points of another dimension, or not floating point.
        """

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n independent rows, shape `(n, d)`, float64 on the CPU, from a CPU generator."""

    def log_prob(self, x: Tensor) -> Tensor:
        """log q(x) = -V(x) - log Z in nats: shape `(..., d)` to `(...)`, dtype and device of x.

        Raises:
            InputError: Points of another dimension, or not floating point.
        """
        return -self.potential(x) - self.log_normaliser

    def entropy(self, n: int, generator: torch.Generator) -> Entropy:
        """-E log q in nats, from the mean over n draws; exact, without a draw, where a closed form is known.

        Raises:
            InputError: Fewer than 2 draws.
        """
        n = checked_count(n, "n, the draws of an entropy and its standard error", least=2)
        values = -self.log_prob(self.sample(n, generator))
        return Entropy(float(values.mean()), float(values.std() / n**0.5))

r"""Pairs (x, T(x)) of one step, and the part of its Wasserstein gradient that needs no score.

    xi'(y) = ∇V(y) + ∇log p_n(y) - (T^{-1}(y) - y)/gamma,     y = T(x) ~ p_n,  so that T^{-1}(y) = x
    g(y)   = ∇V(y) + (y - x)/gamma,                           xi' = g + ∇log p_n

The residual xi of Assumption 1 has the optimal-transport map from p_n back to p_{n-1} where xi' has T^{-1};
the two are one where T is itself optimal. A free step, gamma infinite, has neither.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (27)-(30) and Remark 3.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jkoflow.blocks import Block
from jkoflow.errors import InputError
from jkoflow.laws import Law
from jkoflow.particles import Particles

__all__ = ["Norm", "StepPairs", "norm_of", "potential_gradient"]


@dataclass(frozen=True)
class Norm:
    """An estimate of ‖xi‖² with its standard error; it may be negative where nothing was found.

    Arguments:
        square: Estimate of ‖xi‖², 1/standardised units squared.
        se: Standard error of it.
    """

    square: float
    se: float

    @property
    def value(self) -> float:
        """‖xi‖, 0 where the square came out negative."""
        return math.sqrt(max(0.0, self.square))

    def interval(self, deviations: float) -> tuple[float, float]:
        """‖xi‖ at so many standard errors below and above, each at least 0."""
        low, high = (self.square + sign * deviations * self.se for sign in (-1, 1))
        return math.sqrt(max(0.0, low)), math.sqrt(max(0.0, high))


@dataclass(frozen=True)
class StepPairs:
    """Rows before and after one step; row i of `after` is the image of row i of `before`.

    Arguments:
        before: x ~ p_{n-1}, shape `(n, d)`.
        after: y = T(x) ~ p_n, shape `(n, d)`.
        gamma: Step size; infinite for a free step.
        base: q, with potential V.
        context: What each row is conditioned on, shape `(n, c)`, or None.

    Raises:
        InputError: Shapes that differ, or a step size that is not positive.
    """

    before: Tensor
    after: Tensor
    gamma: float
    base: Law
    context: Tensor | None = None

    def __post_init__(self) -> None:
        if self.before.dim() != 2 or self.before.shape != self.after.shape:
            raise InputError(
                f"pairs: expected two tables of one shape (n, d), got {tuple(self.before.shape)}"
                f" and {tuple(self.after.shape)}"
            )
        if not self.gamma > 0:
            raise InputError(f"gamma: expected a step size above 0 (math.inf when free), got {self.gamma}")

    @classmethod
    def of(cls, block: Block, rows: Particles, base: Law) -> StepPairs:
        """The pairs of a block at rows of p_{n-1}, in float64."""
        image = rows.map(block.push)
        context = None if rows.context is None else rows.context.double()
        return cls(rows.x.double(), image.x.double(), block.gamma, base, context)

    def __len__(self) -> int:
        return len(self.before)

    @property
    def known(self) -> Tensor:
        """g = ∇V(y) + (y - x)/gamma at each pair, shape `(n, d)`."""
        return potential_gradient(self.base, self.after) + (self.after - self.before) / self.gamma

    @property
    def step_length(self) -> float:
        """‖T - id‖ in L²(p_{n-1}), standardised units."""
        return float((self.after - self.before).square().sum(dim=1).mean().sqrt())

    def rows(self, index: Tensor | slice) -> StepPairs:
        """The pairs at `index`, in that order."""
        context = None if self.context is None else self.context[index]
        return StepPairs(self.before[index], self.after[index], self.gamma, self.base, context)


def norm_of(xi: Tensor) -> Norm:
    """‖xi‖² as the mean over rows of |xi|², xi of shape `(n, d)`."""
    squares = xi.double().square().sum(dim=1)
    se = float(squares.std() / math.sqrt(len(squares))) if len(squares) > 1 else math.nan
    return Norm(float(squares.mean()), se)


def potential_gradient(base: Law, x: Tensor) -> Tensor:
    """∇V(x), shape `(n, d)`."""
    at = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(base.potential(at).sum(), at)
    return gradient

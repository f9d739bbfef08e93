r"""A masked residual network: what it says of column i depends on the columns before i and the context alone.

    h_1 = silu(W_1 [f(x), c] + b_1),    h_l = h_{l-1} + silu(W_l h_{l-1} + b_l),    said_i = V_i h + a_i

Unit u of each hidden layer has a degree, floor(u (d - 1)/h), and sees the columns up to it; column i sees the
units of smaller degree. Units stand in the order of their degrees, so that what a group of columns sees is a
first part of them, and the products with what it does not see, half of all, are left out group by group.
Weights that a degree forbids are zero from the start and their gradients are masked, so that they stay zero.

Source: Germain, Gregor, Murray & Larochelle (2015), "MADE", arXiv 1502.03509; residual layers between units
of the same degrees: Nash & Durkan (2019), arXiv 1904.05626.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, silu

from jkoflow.blocks.ode.velocity.perceptron import is_transformed, product

__all__ = ["Group", "MaskedLinear", "MaskedNetwork", "degrees_of", "groups_of"]


class Group(NamedTuple):
    """Columns whose conditionals are computed together.

    Arguments:
        start: The first of them.
        stop: The one after the last.
        units: Hidden units that some of them see, the first so many.
    """

    start: int
    stop: int
    units: int


def degrees_of(dim: int, width: int, context_dim: int) -> Tensor:
    """The degree of each hidden unit in ascending order, shape `(h,)`; -1 sees the context alone."""
    lowest = -1 if context_dim else 0
    count = dim - 1 - lowest
    return lowest + (torch.arange(width) * count).div(width, rounding_mode="floor")


def groups_of(dim: int, width: int, context_dim: int, *, most_columns: int = 64) -> tuple[Group, ...]:
    """The columns in groups of about equal size, `most_columns` at most."""
    with torch.device("cpu"):  # sizes are numbers, also of a block that is made without any
        degrees = degrees_of(dim, width, context_dim)
    bounds = [
        round(part * dim / math.ceil(dim / most_columns)) for part in range(math.ceil(dim / most_columns) + 1)
    ]
    return tuple(Group(start, stop, int((degrees < stop - 1).sum())) for start, stop in pairwise(bounds))


class MaskedNetwork(nn.Module):
    """The network; what it says is zero until it is trained.

    Arguments:
        dim: d, the number of columns.
        n_inputs: Inputs of each column; f(x), `(n, d n_inputs)`, has the first inputs of all columns first.
        n_outputs: Numbers that are said of each column.
        context_dim: c; 0 for none.
        width: Units of each hidden layer, h.
        depth: Hidden layers.
        generator: Source of the initial weights.
    """

    def __init__(
        self,
        *,
        dim: int,
        n_inputs: int,
        n_outputs: int,
        context_dim: int = 0,
        width: int,
        depth: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.dim, self.n_outputs, self.width = dim, n_outputs, width
        self.groups = groups_of(dim, width, context_dim)
        degrees, columns = degrees_of(dim, width, context_dim), torch.arange(dim)
        sees = columns <= degrees[:, None]
        first = torch.cat([*[sees] * n_inputs, torch.ones(width, context_dim, dtype=torch.bool)], dim=1)
        self.first = MaskedLinear(first, generator)
        self.hidden = nn.ModuleList(
            MaskedLinear(degrees <= degrees[:, None], generator) for _ in range(depth - 1)
        )
        self.said = nn.ModuleList(
            MaskedLinear(
                (degrees[: group.units] < columns[group.start : group.stop, None]).repeat(n_outputs, 1), None
            )
            for group in self.groups
        )

    def features(self, inputs: Tensor) -> Tensor:
        """The last hidden layer, shape `(n, h)`, of `[f(x), c]`."""
        h = silu(self.first(inputs))
        for layer in self.hidden:
            h = h + silu(layer(h))
        return h

    def of_group(self, features: Tensor, number: int) -> Tensor:
        """What is said of the columns of a group, shape `(n, n_outputs, m)`."""
        group = self.groups[number]
        said: Tensor = self.said[number](features[:, : group.units])
        return said.view(len(features), self.n_outputs, group.stop - group.start)

    def check_numbers(self) -> None:
        """Refuse weights by which a column would see what comes after it.

        Raises:
            ValueError: Such weights; the message names their tensor.
        """
        for name, layer in self.named_modules():
            if isinstance(layer, MaskedLinear) and bool((layer.weight * (1 - layer.mask)).any()):
                raise ValueError(f"tensor {name}.weight: expected zeros where a column must not be seen")


class MaskedLinear(nn.Module):
    """A linear layer with weights where the mask, `(outputs, inputs)`, is true; zero without a generator."""

    def __init__(self, mask: Tensor, generator: torch.Generator | None) -> None:
        super().__init__()
        self.register_buffer("mask", mask.to(torch.get_default_dtype()), persistent=False)
        weight, bias = torch.zeros(mask.shape), torch.zeros(len(mask))
        if generator is not None:
            bound = (1 / mask.sum(dim=1).clamp_min(1).sqrt())[:, None]
            weight = bound * (2 * torch.rand(mask.shape, generator=generator) - 1) * mask
            bias = bound[:, 0] * (2 * torch.rand(len(mask), generator=generator) - 1)
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    mask: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if is_transformed(x):
            return linear(x, self.weight, self.bias)
        if not torch.is_grad_enabled():
            return product(x.contiguous(), self.weight, self.bias)
        found: Tensor = _Product.apply(x.contiguous(), self.weight, self.bias, self.mask)  # type: ignore[no-untyped-call]  # torch's own
        return found


class _Product(torch.autograd.Function):
    """x W^T + b, whose gradient leaves masked weights alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, mask)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mask = ctx.saved_tensors
        g = g.contiguous()
        g_x = product(g, weight.T) if ctx.needs_input_grad[0] else None
        # copied: a product of two transposes takes longer than a copy and a product of one
        return g_x, product(g.T.contiguous(), x.T).mul_(mask), g.sum(dim=0), None

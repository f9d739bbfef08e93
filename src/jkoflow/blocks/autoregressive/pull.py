r"""Rows from noise, column by column, at the cost of about one pass through the network.

    x_i = F_i^{-1}(Phi(z_i) | x_<i),    i = 1, ..., d

A hidden unit of degree m is computed once, as soon as columns up to m are known; so the whole row costs the
products of one pass, and not one pass for each column. Source: ours; that the units of a masked network may
be computed in the order of their degrees is in Germain, Gregor, Murray & Larochelle (2015), arXiv 1502.03509.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import silu

from jkoflow.blocks.autoregressive.conditionals import Conditionals, bounded
from jkoflow.blocks.autoregressive.head import Columns, Components, components_of
from jkoflow.blocks.autoregressive.network import MaskedLinear, degrees_of
from jkoflow.blocks.mixture_quantile import component_of, conditional_quantiles

__all__ = ["draw_rows", "pull_rows"]


@torch.no_grad()
def pull_rows(conditionals: Conditionals, z: Tensor, context: Tensor | None = None) -> Tensor:
    """The x with `F_i(x_i | x_<i, c) = Phi(z_i)` for all i, shape `(n, d)`, in the dtype of the network.

    Arguments:
        conditionals: The density.
        z: Shape `(n, d)`, float64.
        context: Shape `(n, c)`, or None.
    """
    return _Columns(conditionals, len(z), context).run(z, _quantile)


@torch.no_grad()
def draw_rows(conditionals: Conditionals, noise: Tensor, context: Tensor | None = None) -> Tensor:
    """Draws of the density, one from each row of noise, and not its inverse image: no root is looked for.

    The component is the quantile of Phi of the column's noise; what is left of that is uniform again, and
    makes the component's own draw.

    Arguments:
        conditionals: The density.
        noise: Standard normal, shape `(n, d)`, float64.
        context: Shape `(n, c)`, or None.
    """
    return _Columns(conditionals, len(noise), context).run(noise, _drawn)


class _Columns:
    """The rows, and what of the network is known of them so far."""

    def __init__(self, conditionals: Conditionals, n: int, context: Tensor | None) -> None:
        shape, network, like = conditionals.shape, conditionals.network, conditionals.centre
        self._all, self._d, self._c = conditionals, shape.dim, shape.context_dim
        degrees = degrees_of(shape.dim, shape.width, shape.context_dim)
        self._units = [int((degrees < column).sum()) for column in range(shape.dim)]
        self._rows = like.new_zeros(n, self._c + self._d)
        self._inputs = like.new_zeros(n, 2 * self._d + self._c)
        if context is not None:
            self._rows[:, : self._c] = context
            self._inputs[:, 2 * self._d :] = context
        self._hidden = [like.new_zeros(n, shape.width) for _ in range(shape.depth)]
        self._layers = cast("list[MaskedLinear]", [network.first, *network.hidden])
        self._known = 0
        self._with_more = conditionals.columns_with_more

    def run(self, z: Tensor, value_of: Callable[[Tensor, Components], Tensor]) -> Tensor:
        """All columns, one after the other, each by its noise and its conditional mixture."""
        for number, group in enumerate(self._all.network.groups):
            layer = cast("MaskedLinear", self._all.network.said[number])
            for column in range(group.start, group.stop):
                self._reveal(column)
                place, m = column - group.start, group.stop - group.start
                units = self._units[column]
                said = self._hidden[-1][:, :units] @ layer.weight[place::m, :units].T + layer.bias[place::m]
                found = self._components(said[:, :, None], column)
                self._set(column, value_of(z[:, column], found))
        return self._rows[:, self._c :]

    def _components(self, said: Tensor, column: int) -> Components:
        """The conditional mixture of one column, its background among its components."""
        every, this = self._all, slice(column, column + 1)
        slopes = every.regression[column] * every.earlier[column]
        linear = (self._rows - every.centre) @ slopes if column or self._c else said.new_zeros(len(said))
        own = Columns(every.log_w[:, this], every.mean[:, this], every.log_scale[:, this])
        shape = every.shape
        found = components_of(said, linear[:, None], own, n_fixed=shape.n_fixed, reach=shape.reach)
        if column in self._with_more:
            found = every.with_more(found, column, self._rows, linear)
        return every.with_background(found, this)

    def _set(self, column: int, value: Tensor) -> None:
        """Enter a column that has been found."""
        known = self._c + column + 1
        self._rows[:, known - 1] = value.to(self._rows)
        white = (self._rows[:, :known] - self._all.centre[:known]) @ self._all.whitening[column, :known]
        self._inputs[:, column] = bounded(self._rows[:, known - 1])
        self._inputs[:, self._d + column] = bounded(white)

    def _reveal(self, column: int) -> None:
        """Compute the hidden units that see the columns before this one, and no other."""
        new = slice(self._known, self._units[column])
        if new.stop <= new.start:
            return
        below = self._inputs
        for number, layer in enumerate(self._layers):
            seen = below if number == 0 else below[:, : new.stop]
            value = silu(seen @ layer.weight[new, : seen.shape[1]].T + layer.bias[new])
            self._hidden[number][:, new] = value if number == 0 else below[:, new] + value
            below = self._hidden[number]
        self._known = new.stop


def _quantile(z: Tensor, found: Components) -> Tensor:
    """The quantile of Phi(z) under the mixture of one column, shape `(n,)`, float64."""
    log_w, location, log_scale = (part[:, :, 0].double() for part in found)
    return conditional_quantiles(z, location, (-log_scale).exp(), log_w)


def _drawn(noise: Tensor, found: Components) -> Tensor:
    """A draw of the mixture of one column, shape `(n,)`, float64."""
    log_w, location, log_scale = (part[:, :, 0].double() for part in found)
    component, u = component_of(noise[:, None], log_w.exp())
    value: Tensor = (location.gather(1, component) + log_scale.gather(1, component).exp() * u)[:, 0]
    return value

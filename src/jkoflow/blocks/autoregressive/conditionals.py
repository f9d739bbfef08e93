r"""A density as the product of its conditionals, each a mixture that a linear regression and a network move.

    log p(x | c) = sum_i log p(x_i | x_<i, c),    p(x_i | .) = (1 - e) mixture_i(x_i | .) + e background(x_i)

The mixtures are those of `head`, the network that of `network`. It sees [b(x), b(W(x - m)), c], where W is
the inverse Cholesky factor of the covariance, so that both have the same information of the columns before;
b(u) = u / sqrt(1 + u^2/r^2) keeps rows far out from driving the network. The background, of fixed weight e,
stands for values unlike any that were seen; it is that of closings, one column at a time.

Source: Germain, Gregor, Murray & Larochelle (2015), arXiv 1502.03509; Uria, Murray & Larochelle (2013), arXiv
1306.0186, for real-valued columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jkoflow.blocks.autoregressive.head import Columns, Components, components_of, log_densities, n_outputs
from jkoflow.blocks.autoregressive.network import MaskedNetwork
from jkoflow.blocks.mixture_quantile import log_root_two_pi
from jkoflow.blocks.ode.velocity.perceptron import is_transformed

__all__ = ["Conditionals", "ConditionalsShape", "bounded"]


@dataclass(frozen=True)
class ConditionalsShape:
    """The sizes of `Conditionals`.

    Arguments:
        dim: d.
        context_dim: c; 0 for none.
        n_fixed: Components of a column that stay where they are.
        n_moving: Components of a column that move with the regression on the columns before.
        n_wide: Components of the background.
        width: Units of each hidden layer.
        depth: Hidden layers, 1 at least.
        reach: Most that the network adds to or takes from the logarithm of a standard deviation.
    """

    dim: int
    context_dim: int = 0
    n_fixed: int = 6
    n_moving: int = 6
    n_wide: int = 1
    width: int = 256
    depth: int = 2
    reach: float = 3.0

    @property
    def n_components(self) -> int:
        """Components of a column, without the background."""
        return self.n_fixed + self.n_moving


class Conditionals(nn.Module):
    """The conditional densities of the columns of a row, in the order of the columns.

    Arguments:
        shape: The sizes.
        generator: Source of the network's initial weights; None where a state dict replaces them.
    """

    def __init__(self, shape: ConditionalsShape, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.shape = shape
        d, c, k = shape.dim, shape.context_dim, shape.n_components
        self.network = MaskedNetwork(
            dim=d,
            n_inputs=2,
            n_outputs=n_outputs(k),
            context_dim=c,
            width=shape.width,
            depth=shape.depth,
            generator=generator or torch.Generator("cpu"),
        )
        self.log_w, self.mean, self.log_scale = (nn.Parameter(torch.zeros(k, d)) for _ in range(3))
        self.regression = nn.Parameter(torch.zeros(d, c + d))
        self.register_buffer("centre", torch.zeros(c + d))
        self.register_buffer("whitening", torch.zeros(d, c + d))
        self.register_buffer("wide_log_w", torch.full((shape.n_wide,), -math.inf))
        self.register_buffer("wide_scale", torch.ones(shape.n_wide, d))
        self.register_buffer("wide_centre", torch.zeros(d))
        earlier = torch.ones(d, c + d).tril(c - 1)
        self.register_buffer("earlier", earlier, persistent=False)

    centre: Tensor
    whitening: Tensor
    wide_log_w: Tensor
    wide_scale: Tensor
    wide_centre: Tensor
    earlier: Tensor

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(x | c), shape `(n,)`, nats, in float64."""
        return self.log_prob_by_column(x, context).sum(dim=1, dtype=torch.float64)

    def log_prob_by_column(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(x_i | x_<i, c), shape `(n, d)`, nats."""
        by_hand = not (x.requires_grad or is_transformed(x))
        parts = []
        for columns, said, linear in self._by_group(x, context):
            at, own = x[:, columns], self._own(columns)
            tell = log_densities if by_hand else _log_densities
            parts.append(tell(said, at, linear, own, n_fixed=self.shape.n_fixed, reach=self.shape.reach))
        share = self.wide_log_w.logsumexp(dim=0).exp()
        return torch.logaddexp(torch.cat(parts, dim=1) + torch.log1p(-share), self._background(x))

    def components(self, x: Tensor, context: Tensor | None = None) -> Components:
        """The conditional mixtures of all columns with their background, by plain operations."""
        parts = [
            components_of(
                said, linear, self._own(columns), n_fixed=self.shape.n_fixed, reach=self.shape.reach
            )
            for columns, said, linear in self._by_group(x, context)
        ]
        found = Components(*(torch.cat(part, dim=2) for part in zip(*parts, strict=True)))
        return self.with_background(found, slice(None))

    def with_background(self, found: Components, columns: slice) -> Components:
        """The mixtures of some columns with the background among their components."""
        n, _, m = found.log_w.shape
        share = self.wide_log_w.logsumexp(dim=0).exp()
        wide_log_w = self.wide_log_w[:, None].expand(-1, m)
        shapes = (
            wide_log_w,
            self.wide_centre[columns].expand_as(wide_log_w),
            self.wide_scale[:, columns].log(),
        )
        wide = Components(*(part.expand(n, -1, -1).to(found.log_w) for part in shapes))
        own = Components(found.log_w + torch.log1p(-share), found.location, found.log_scale)
        return Components(*(torch.cat(pair, dim=1) for pair in zip(own, wide, strict=True)))

    def inputs(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the network sees of rows, `(n, 2 d + c)`, and context and rows side by side, `(n, c + d)`."""
        rows = x if context is None else torch.cat([context, x], dim=1)
        white = torch.nn.functional.linear(rows - self.centre, self.whitening)
        seen = [bounded(x), bounded(white), *([] if context is None else [context])]
        return torch.cat(seen, dim=1), rows

    def check_numbers(self) -> None:
        """Refuse numbers by which a column would see what comes after it.

        Raises:
            ValueError: Such numbers; the message names their tensor.
        """
        self.network.check_numbers()
        own = self.earlier.clone()
        own[:, self.shape.context_dim :].fill_diagonal_(1.0)
        for name, part, mask in (
            ("regression", self.regression, self.earlier),
            ("whitening", self.whitening, own),
        ):
            if bool((part * (1 - mask)).any()):
                raise ValueError(f"tensor {name}: expected zeros where a column must not be seen")

    def _by_group(self, x: Tensor, context: Tensor | None) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Each group of columns, what the network says of it, and its regression on the columns before."""
        inputs, rows = self.inputs(x, context)
        linear = torch.nn.functional.linear(rows - self.centre, self.regression * self.earlier)
        features = self.network.features(inputs)
        for number, group in enumerate(self.network.groups):
            columns = slice(group.start, group.stop)
            yield columns, self.network.of_group(features, number), linear[:, columns]

    def _own(self, columns: slice) -> Columns:
        return Columns(self.log_w[:, columns], self.mean[:, columns], self.log_scale[:, columns])

    def _background(self, x: Tensor) -> Tensor:
        """The logarithm of e background(x_i), shape `(n, d)`."""
        z = (x - self.wide_centre)[:, None] / self.wide_scale
        heights = self.wide_log_w[:, None] - 0.5 * z.square() - self.wide_scale.log() - log_root_two_pi
        return heights.logsumexp(dim=1)


def bounded(u: Tensor, *, largest: float = 4.0) -> Tensor:
    """u / sqrt(1 + u^2/r^2), r the largest absolute value."""
    return u * (1 + (u / largest).square()).rsqrt()


def _log_densities(
    said: Tensor, x: Tensor, linear: Tensor, own: Columns, *, n_fixed: int, reach: float
) -> Tensor:
    """`log_densities` by plain operations, which torch can differentiate in `x`, too."""
    found = components_of(said, linear, own, n_fixed=n_fixed, reach=reach)
    z = (x[:, None] - found.location) * torch.exp(-found.log_scale)
    return torch.logsumexp(found.log_w - 0.5 * z.square() - found.log_scale, dim=1) - log_root_two_pi

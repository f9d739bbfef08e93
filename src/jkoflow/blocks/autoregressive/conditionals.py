r"""A density as the product of its conditionals, each a mixture that a linear regression and a network move.

    log p(x | c) = sum_i log p(x_i | x_<i, c),
    p(x_i | .) = (1 - e) ((1 - f_i) ((1 - g_i) mixture_i + g_i gaussians_i) + f_i kernels_i) + e background_i

The mixtures are those of `head`, the network that of `network`. It sees [b(x), b(W(x - m)), c], where W is
the inverse Cholesky factor of the covariance, so that both have the same information of the columns before;
b(u) = u / sqrt(1 + u^2/r^2) keeps rows far out from driving the network. Where there are some, the Gaussians
are those of a mixture fitted to whole rows (`gaussians`), and the kernels those of `leaf_kernels`, which see
what a network would need many updates for. The background, of fixed weight e, stands for values unlike any
that were seen; it is that of closings, one column at a time.

Source: Germain, Gregor, Murray & Larochelle (2015), arXiv 1502.03509; Uria, Murray & Larochelle (2013), arXiv
1306.0186, for real-valued columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jkoflow.blocks.autoregressive.gaussians import GaussianConditionals
from jkoflow.blocks.autoregressive.head import Columns, Components, components_of, log_densities, n_outputs
from jkoflow.blocks.autoregressive.leaf_kernels import LeafKernels, Regressed
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
        self.gaussians: GaussianConditionals | None = None
        self.leaves: LeafKernels | None = None
        earlier = torch.ones(d, c + d).tril(c - 1)
        self.register_buffer("earlier", earlier, persistent=False)

    centre: Tensor
    whitening: Tensor
    wide_log_w: Tensor
    wide_scale: Tensor
    wide_centre: Tensor
    earlier: Tensor

    @property
    def numbers_of_a_row(self) -> int:
        """Largest number of components, of all columns or of one with its kernels, that a row needs."""
        own = self.shape.dim * (self.shape.n_components + self.shape.n_wide)
        kernels = 0 if self.leaves is None else self.leaves.most_components
        gaussians = 0 if self.gaussians is None else self.gaussians.means.numel()
        return max(own, kernels, gaussians)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(x | c), shape `(n,)`, nats, in float64."""
        return self.log_prob_by_column(x, context).sum(dim=1, dtype=torch.float64)

    def log_prob_by_column(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(x_i | x_<i, c), shape `(n, d)`, nats."""
        own = self._with_leaves(self.log_prob_without_leaves(x, context), x, context)
        share = self.wide_log_w.logsumexp(dim=0).exp()
        return torch.logaddexp(own + torch.log1p(-share), self._background(x))

    def log_prob_without_leaves(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The same by the network's mixtures and the Gaussians, without kernels and background."""
        own = self.log_prob_by_network(x, context)
        if self.gaussians is None:
            return own
        theirs = self.gaussians.log_prob_by_column(x if context is None else torch.cat([context, x], dim=1))
        share = self.gaussians.share
        return torch.logaddexp(own + torch.log1p(-share), theirs + share.log())

    def log_prob_by_network(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The same by the network's mixtures alone."""
        by_hand = not (x.requires_grad or is_transformed(x))
        parts = []
        for columns, said, linear in self._by_group(x, context):
            at, own = x[:, columns], self._own(columns)
            tell = log_densities if by_hand else _log_densities
            parts.append(tell(said, at, linear, own, n_fixed=self.shape.n_fixed, reach=self.shape.reach))
        return torch.cat(parts, dim=1)

    def parts(self, x: Tensor, context: Tensor | None = None) -> Iterator[tuple[slice, Components]]:
        """Columns with their conditional mixtures; those with Gaussians or kernels one by one."""
        found = self._components(x, context)
        alone = self.columns_with_more
        rows, linear = self.regressed(x, context)
        for start, stop in _runs(self.shape.dim, alone):
            columns = slice(start, stop)
            part = Components(*(part[:, :, columns] for part in found))
            if start in alone:
                part = self.with_more(part, start, rows, linear[:, start])
            yield columns, self.with_background(part, columns)

    @property
    def columns_with_more(self) -> set[int]:
        """The columns that Gaussians or kernels have a share of."""
        members = (self.gaussians, self.leaves)
        return {i for member in members if member is not None for i in member.columns}

    def with_more(self, found: Components, column: int, rows: Tensor, linear: Tensor) -> Components:
        """The mixture of one column with its Gaussians and kernels among its components.

        Arguments:
            found: By the network, shape `(n, K, 1)`.
            column: i.
            rows: Context and columns before i, more are not looked at, shape `(n, >= c + i)`.
            linear: The regression of the column at the rows, shape `(n,)`.
        """
        if self.gaussians is not None and self.gaussians.share[column] > 0:
            theirs = self.gaussians.components(column, rows)
            found = _mixed(found, theirs, self.gaussians.share[column])
        if self.leaves is not None and self.leaves.share[column] > 0:
            kernels = self.leaves.components(column, rows, linear)
            found = _mixed(found, kernels, self.leaves.share[column])
        return found

    def regressed(self, x: Tensor, context: Tensor | None = None) -> Regressed:
        """Context and rows side by side, and what the regression says of the columns."""
        rows = x if context is None else torch.cat([context, x], dim=1)
        return Regressed(rows, torch.nn.functional.linear(rows - self.centre, self.regression * self.earlier))

    def _with_leaves(self, by_network: Tensor, x: Tensor, context: Tensor | None) -> Tensor:
        if self.leaves is None:
            return by_network
        rows, linear = self.regressed(x, context)
        columns = list(by_network.unbind(dim=1))
        for i in self.leaves.columns:
            share = self.leaves.share[i]
            kernels = self.leaves.log_density(i, x[:, i], rows, linear[:, i])
            columns[i] = torch.logaddexp(columns[i] + torch.log1p(-share), kernels + share.log())
        return torch.stack(columns, dim=1)

    def _components(self, x: Tensor, context: Tensor | None) -> Components:
        """The mixtures of all columns by the network, without kernels and background."""
        parts = [
            components_of(
                said, linear, self._own(columns), n_fixed=self.shape.n_fixed, reach=self.shape.reach
            )
            for columns, said, linear in self._by_group(x, context)
        ]
        return Components(*(torch.cat(part, dim=2) for part in zip(*parts, strict=True)))

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

    def inputs(self, x: Tensor, context: Tensor | None) -> Tensor:
        """What the network sees of rows, shape `(n, 2 d + c)`."""
        rows = x if context is None else torch.cat([context, x], dim=1)
        white = torch.nn.functional.linear(rows - self.centre, self.whitening)
        return torch.cat([bounded(x), bounded(white), *([] if context is None else [context])], dim=1)

    def check_numbers(self) -> None:
        """Refuse numbers by which a column would see what comes after it.

        Raises:
            ValueError: Such numbers; the message names their tensor.
        """
        self.network.check_numbers()
        if self.gaussians is not None:
            self.gaussians.check_numbers()
        if self.leaves is not None:
            self.leaves.check_numbers(self.shape.context_dim)
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
        linear = self.regressed(x, context).linear
        features = self.network.features(self.inputs(x, context))
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


def _mixed(found: Components, more: Components, share: Tensor) -> Components:
    """A mixture of two mixtures; the second has this share."""
    weighed = (
        found._replace(log_w=found.log_w + torch.log1p(-share)),
        more._replace(log_w=more.log_w + share.log()),
    )
    return Components(*(torch.cat(pair, dim=1) for pair in zip(*weighed, strict=True)))


def _runs(dim: int, alone: set[int]) -> Iterator[tuple[int, int]]:
    """First and last of neighbouring columns; those that are to be alone are."""
    start = 0
    for i in range(dim):
        if i in alone or i + 1 == dim or i + 1 in alone:
            yield start, i + 1
            start = i + 1


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

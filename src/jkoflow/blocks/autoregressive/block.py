r"""The triangular map of a density with conditional mixtures, whose parameters a masked network says.

    T_i(x) = Phi^{-1}( F_i(x_i | x_<i, c) ),    log|det dT(x)| = log p(x | c) - log N(T(x))

It is the Knothe-Rosenblatt rearrangement of p to N(0, I); its Jacobian is triangular, so that the determinant
costs nothing beside the density. At gamma = infinity the proximal objective, E[V(T(x))] - E[log|det dT(x)|],
is -E[log p(x)] up to a constant, which is what training then sees; at a finite gamma the map itself is
differentiated. With kernels at the leaves of trees the map jumps where an earlier column crosses a split: it
is a bijection still, and its density exact, but it has no Lipschitz constant.

Source: Rosenblatt (1952), "Remarks on a multivariate transformation", Ann. Math. Statist. 23(3), eq. (1);
Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (25).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from jkoflow.blocks.autoregressive.conditionals import Conditionals, ConditionalsShape
from jkoflow.blocks.autoregressive.gaussians import GaussianConditionals
from jkoflow.blocks.autoregressive.head import Components
from jkoflow.blocks.autoregressive.leaf_growth import grow_leaves, share_of
from jkoflow.blocks.autoregressive.leaf_kernels import LeafKernels, LeafShape
from jkoflow.blocks.autoregressive.leaf_rules import LeafRules
from jkoflow.blocks.autoregressive.pull import draw_rows, pull_rows
from jkoflow.blocks.base import Block, Inverse, KnownSource, Shape, Source
from jkoflow.blocks.chunked import by_chunks
from jkoflow.blocks.finite import require_finite
from jkoflow.blocks.log_sums import log_sum_exp
from jkoflow.blocks.mixture import MixtureBlock
from jkoflow.blocks.mixture_quantile import (
    log_root_two_pi,
    quantile_by_logarithms,
    quantile_of_shares,
    rules,
    tail_log_slopes,
)
from jkoflow.blocks.ode.velocity.perceptron import is_transformed
from jkoflow.laws import Law
from jkoflow.particles import Particles
from jkoflow.storage.chunks import MIXTURE_PULLED_NUMBERS, MIXTURE_SCORED_NUMBERS
from jkoflow.storage.entries import checked_real, checked_whole, require_names

__all__ = ["AutoregressiveBlock"]


class AutoregressiveBlock(Block):
    """The Knothe-Rosenblatt map of a density with conditional mixtures.

    Arguments:
        gamma: Step size of the proximal step; infinite for a free step.
        shape: Sizes of the conditionals.
        order: The columns in the order in which they are conditioned, shape `(d,)`; as they stand if None.
        n_gaussians: Components of the mixture of whole rows; 0 for none.
        leaves: Sizes of the kernels at the leaves of trees; None for none.
        generator: Source of initial weights; None where a state dict replaces them.
    """

    pushed_numbers: ClassVar[int] = MIXTURE_PULLED_NUMBERS

    def __init__(
        self,
        *,
        gamma: float,
        shape: ConditionalsShape,
        order: Tensor | None = None,
        n_gaussians: int = 0,
        leaves: LeafShape | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(dim=shape.dim, gamma=gamma)
        self.conditionals = Conditionals(shape, generator)
        if n_gaussians:
            self.conditionals.gaussians = GaussianConditionals(n_gaussians, shape.dim, shape.context_dim)
        if leaves is not None:
            self.conditionals.leaves = LeafKernels(leaves, shape.dim)
        self.register_buffer("order", torch.arange(shape.dim) if order is None else order)

    order: Tensor

    @property
    def conditioned_on(self) -> int | None:
        return self.conditionals.shape.context_dim

    @property
    def can_fold(self) -> bool:
        return False

    def to_config(self) -> dict[str, Any]:
        """Plain settings; numbers of the density are in the state."""
        gaussians, leaves = self.conditionals.gaussians, self.conditionals.leaves
        return {
            "kind": "autoregressive",
            "gamma": None if self.free else self.gamma,
            **asdict(self.conditionals.shape),
            "n_gaussians": 0 if gaussians is None else gaussians.n_components,
            "leaves": None if leaves is None else asdict(leaves.shape),
        }

    @classmethod
    def from_config(cls, settings: dict[str, Any]) -> Self:
        given = dict(settings)
        gamma, leaves, count = (given.pop(name) for name in ("gamma", "leaves", "n_gaussians"))
        sizes = None if leaves is None else LeafShape(**leaves)
        return cls(gamma=gamma, shape=ConditionalsShape(**given), n_gaussians=count, leaves=sizes)

    @classmethod
    def stored_shapes(
        cls, settings: Mapping[str, Any], found: Mapping[str, Shape]
    ) -> Iterable[tuple[str, Shape]]:
        names = set(asdict(ConditionalsShape(1)))
        require_names(settings, {"gamma", "n_gaussians", "leaves"} | names)
        checked_whole(settings, "n_gaussians", most=2**20)
        checked_real(settings, "reach", above=0.0)
        for name in sorted(names - {"reach"}):
            least = 1 if name in ("dim", "width", "depth", "n_wide") else 0
            checked_whole(settings, name, least=least, most=2**20)
        if settings["leaves"] is not None:
            leaves = settings["leaves"]
            require_names(leaves, {part.name for part in fields(LeafShape)})
            for name in leaves:
                checked_whole(leaves, name, most=2**31 - 1)
        with torch.device("meta"):
            block = cls.from_config({**settings})
        return ((name, tuple(part.shape)) for name, part in block.state_dict().items())

    def check_numbers(self) -> None:
        """Refuse an order that is no permutation, and weights by which a column sees a later one, too."""
        state = {name: part for name, part in self.state_dict().items() if name != "conditionals.wide_log_w"}
        require_finite(state)
        if not bool((self.order.sort().values == torch.arange(self.dim, device=self.order.device)).all()):
            raise ValueError("tensor order: expected each column once")
        share = float(self.conditionals.wide_log_w.double().logsumexp(dim=0).exp())
        if not 0 <= share < 1 or not bool((self.conditionals.wide_scale > 0).all()):
            raise ValueError(
                "tensors wide_log_w, wide_scale: expected weights of sum below 1 and widths above 0"
            )
        self.conditionals.check_numbers()

    def push(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """T(x), shape `(n, d)`."""
        return self.push_with_log_det(x, context)[0]

    def push_with_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """T(x) and `log p(x | c) - log N(T(x))`."""
        y, log_det = self._by_chunks(self._push, x, context)
        return y, log_det

    def push_with_jacobian(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """T(x) and dT(x), one pass backward for each column of T."""
        with torch.enable_grad():
            at = x.detach().requires_grad_(not x.requires_grad) if not x.requires_grad else x
            y = self.push(at, context)
            keep = torch.is_grad_enabled() and x.requires_grad
            rows = [
                torch.autograd.grad(y[:, i].sum(), at, retain_graph=True, create_graph=keep)[0]
                for i in range(self.dim)
            ]
        jacobian = torch.stack(rows, dim=1)
        return (y, jacobian) if keep else (y.detach(), jacobian)

    def push_with_trace(self, x: Tensor, context: Tensor | None, probes: Tensor) -> tuple[Tensor, Tensor]:
        """The same as `push_with_log_det`: there is no trace to integrate."""
        del probes
        return self.push_with_log_det(x, context)

    @torch.no_grad()
    def invert(self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None) -> Inverse:
        """Column by column, each by a bracketed Newton iteration, with the error that was reached."""
        x = self.pull(y, context, tolerance=tolerance)
        return Inverse(x, (self.push(x, context) - y).norm(dim=1))

    def pull(self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None) -> Tensor:
        """T^-1(y), shape `(n, d)`, without its error."""
        del tolerance

        def pull(z: Tensor, given: Tensor | None) -> tuple[Tensor]:
            return (pull_rows(self.conditionals, z.double(), given),)

        x = torch.empty_like(y)
        x[:, self.order] = self._by_chunks(pull, y[:, self.order], context)[0].to(y)
        return x

    def source(self, law: Law) -> Source | None:
        """The density, or the density given the context, where the map is to N(0, I)."""
        return KnownSource(self) if law.is_standard else None

    def source_log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(x | c), shape `(n,)`, nats, float64."""
        like = self.conditionals.centre

        def log_prob(rows: Tensor, given: Tensor | None) -> tuple[Tensor]:
            return (self.conditionals.log_prob(rows.to(like), None if given is None else given.to(like)),)

        return self._by_chunks(log_prob, x[:, self.order], context, MIXTURE_SCORED_NUMBERS)[0]

    def source_draw(self, noise: Tensor, context: Tensor | None = None) -> Tensor:
        """Rows of p, or of p given the context, from standard normal rows, shape `(n, d)`, float64."""

        def draw(z: Tensor, given: Tensor | None) -> tuple[Tensor]:
            return (draw_rows(self.conditionals, z, given),)

        x = torch.empty_like(noise)
        x[:, self.order] = self._by_chunks(draw, noise[:, self.order], context)[0].to(noise)
        return x

    def _by_chunks(
        self,
        function: Callable[[Tensor, Tensor | None], tuple[Tensor, ...]],
        x: Tensor,
        context: Tensor | None,
        numbers: int = MIXTURE_PULLED_NUMBERS,
    ) -> tuple[Tensor, ...]:
        """`function` of rows few enough for the table of their components."""
        return by_chunks(function, x, context, numbers // self.conditionals.numbers_of_a_row)

    @torch.no_grad()
    def add_gaussians(self, mixture: MixtureBlock, validation: Particles, rules: LeafRules) -> None:
        """Give columns that gain by it the conditionals of a mixture of whole rows, in place.

        Arguments:
            mixture: Its map.
            validation: Validation rows, which weigh it beside the network.
            rules: How shares are found.
        """
        every, x = self.conditionals, validation.x[:, self.order]
        found = GaussianConditionals.of(mixture, self.order).to(every.centre)
        rows = every.regressed(x, validation.context).joint
        theirs, own = found.log_prob_by_column(rows), every.log_prob_by_network(x, validation.context)
        for i in range(self.dim):
            found.share[i] = share_of(theirs[:, i], own[:, i], rules)
        every.gaussians = found if found.columns else None

    @torch.no_grad()
    def grow_leaves(
        self,
        rows: Particles,
        validation: Particles,
        rules: LeafRules,
        seed: int,
        columns: Sequence[int] | None = None,
    ) -> None:
        """Give columns that gain by them kernels at the leaves of trees, in place.

        Arguments:
            rows: Training rows in random order.
            validation: Validation rows, which weigh the kernels beside the network.
            rules: How trees are grown.
            seed: Of the trees.
            columns: The columns, counted as they are conditioned, that are tried; all if None.
        """
        every, held_out = self.conditionals, validation.x[:, self.order]
        every.leaves = None
        every.leaves = grow_leaves(
            every.regressed(rows.x[:, self.order], rows.context),
            every.regressed(held_out, validation.context),
            every.log_prob_without_leaves(held_out, validation.context),
            rules,
            seed,
            range(self.dim) if columns is None else columns,
        )

    def _push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        like = self.conditionals.centre
        ordered = x[:, self.order].to(like)
        given = None if context is None else context.to(like)
        count = self.conditionals.shape.n_components + self.conditionals.shape.n_wide
        parts = [
            _quantiles(ordered[:, columns], found, count)
            for columns, found in self.conditionals.parts(ordered, given)
        ]
        z, slopes = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
        y = torch.empty_like(z)
        y = y.index_copy(1, self.order, z)
        return y.to(x.dtype), slopes.sum(dim=1).to(x.dtype)


def _quantiles(x: Tensor, found: Components, n_trained: int) -> tuple[Tensor, Tensor]:
    """Phi^{-1}(F(x)) of some columns and the logarithm of its slope, shape `(n, m)` each, float64.

    Arguments:
        x: Shape `(n, m)`.
        found: Their mixtures.
        n_trained: Components of a mixture that has no Gaussians and no kernels.
    """
    log_w, location, log_scale = (part.double() for part in found)
    u = (x.double()[:, None] - location) * torch.exp(-log_scale)
    # one way for what may be trained; the many components of a frozen density need a faster one
    few = log_w.shape[1] <= n_trained
    z = quantile_by_logarithms(u, log_w) if few else quantile_of_shares(u, log_w.exp(), log_w)
    heights = log_w - 0.5 * u.square() - log_scale - log_root_two_pi
    slopes = log_sum_exp(heights) + 0.5 * z.square() + log_root_two_pi
    far = z.abs() > rules.far_square
    if not is_transformed(u) and bool(far.any()):
        rows = far.any(dim=1)
        steep = tail_log_slopes(u[rows], log_w[rows], -log_scale[rows], z[rows])
        slopes = slopes.index_put((rows,), steep)
    return z, slopes

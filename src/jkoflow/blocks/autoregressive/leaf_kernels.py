r"""Conditional kernel densities from the leaves of trees: the rows like this one say what comes next.

    k_i(x_i | x_<i, c) = sum_h v_ih mean_{t in T_h} mean_{j in leaf_t(x_<i, c)} N(x_i; y_hj, s_hj^2)
    y_hj = x_ji,  or  l_i(x_<i) + x_ji - l_i(x_j,<i);    s_hj = a_h + b_h sd(leaf)

A kernel sits at a training value of the leaf, or at the regression l_i moved by a training residual; its
width is a number of its own or a multiple of the leaf's standard deviation. A leaf bears at most m values,
evenly spaced ones of those that fell into it.

Source: Meinshausen (2006), "Quantile Regression Forests", J. Mach. Learn. Res. 7, eq. (4), for the weights;
kernels and residuals are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from jkoflow.blocks.autoregressive.head import Components
from jkoflow.blocks.mixture_quantile import log_root_two_pi
from jkoflow.blocks.ode.velocity.perceptron import is_transformed

__all__ = ["LeafKernels", "LeafShape", "Regressed"]


@dataclass(frozen=True)
class LeafShape:
    """The sizes of `LeafKernels`.

    Arguments:
        trees: Trees of each column.
        depth: Splits on the longest way from a root to a leaf.
        members: Values of a leaf at most, m, of any tree.
        nodes: Nodes of all trees of all columns.
        values: Values of all leaves.
        rows: Training rows that the values are of.
        kernels: Kernels h of all columns.
    """

    trees: int
    depth: int
    members: int
    nodes: int
    values: int
    rows: int
    kernels: int


class Regressed(NamedTuple):
    """Rows with what a linear regression says of their columns.

    Arguments:
        joint: Context and columns in the order in which they are conditioned, shape `(n, c + d)`.
        linear: l, shape `(n, d)`.
    """

    joint: Tensor
    linear: Tensor

    def rows(self, index: slice) -> Regressed:
        """Some of them."""
        return Regressed(self.joint[index], self.linear[index])


class LeafKernels(nn.Module):
    """Trees of each column, and the kernels at what their leaves hold.

    Arguments:
        shape: The sizes.
        dim: d.
    """

    def __init__(self, shape: LeafShape, dim: int) -> None:
        super().__init__()
        self.shape, self.dim = shape, dim
        whole: dict[str, Any] = {"dtype": torch.int32}
        self.register_buffer("share", torch.zeros(dim))
        self.register_buffer("node_start", torch.zeros(dim + 1, **whole))
        self.register_buffer("kernel_start", torch.zeros(dim + 1, **whole))
        self.register_buffer("members", torch.zeros(dim, shape.trees, **whole))
        self.register_buffer("roots", torch.zeros(dim, shape.trees, **whole))
        self.register_buffer("feature", torch.zeros(shape.nodes, dtype=torch.int16))
        self.register_buffer("threshold", torch.zeros(shape.nodes))
        self.register_buffer("link", torch.zeros(shape.nodes, **whole))
        self.register_buffer("size", torch.zeros(shape.nodes, dtype=torch.uint8))
        self.register_buffer("member", torch.zeros(shape.values, **whole))
        self.register_buffer("value", torch.zeros(shape.rows, dim))
        self.register_buffer("residual", torch.zeros(shape.rows, dim))
        self.register_buffer("log_w", torch.zeros(shape.kernels))
        self.register_buffer("absolute", torch.ones(shape.kernels))
        self.register_buffer("relative", torch.zeros(shape.kernels))
        self.register_buffer("moves", torch.zeros(shape.kernels, **whole))
        self.register_buffer("trees", torch.zeros(shape.kernels, 2, **whole))

    share: Tensor
    node_start: Tensor
    kernel_start: Tensor
    members: Tensor
    roots: Tensor
    feature: Tensor
    threshold: Tensor
    link: Tensor
    size: Tensor
    member: Tensor
    value: Tensor
    residual: Tensor
    log_w: Tensor
    absolute: Tensor
    relative: Tensor
    moves: Tensor
    trees: Tensor

    @property
    def columns(self) -> list[int]:
        """The columns that have kernels."""
        starts = self.kernel_start.tolist()
        return [i for i in range(self.dim) if starts[i + 1] > starts[i]]

    @property
    def most_components(self) -> int:
        """Kernels of one row and column, the most of any column."""
        first, last = self.trees[:, :1], self.trees[:, 1:]
        places = torch.arange(self.shape.trees, device=first.device)
        used = (places >= first) & (places < last)
        starts = self.kernel_start.long()
        column = torch.searchsorted(
            starts[1:], torch.arange(self.shape.kernels, device=first.device), right=True
        )
        slots = (used * self.members[column]).max(dim=1).values
        of_each = torch.zeros(self.dim, dtype=torch.int64, device=first.device)
        return int(of_each.index_add(0, column, (last - first)[:, 0].long() * slots).max())

    def components(self, column: int, rows: Tensor, linear: Tensor) -> Components:
        """The kernels of one column for some rows, of weights of sum 1, shape `(n, K, 1)` each.

        Arguments:
            column: i.
            rows: Context and columns before i, more are not looked at, shape `(n, >= c + i)`.
            linear: l_i at the rows, shape `(n,)`.
        """
        leaves, parts = _Leaves(self, column, rows, linear), []
        for log_w, (h, trees) in zip(self._log_w(column), self._kernels(column), strict=True):
            place, spread = leaves.centres(int(self.moves[h]), trees)
            weight = leaves.held(trees)[1] + (log_w - math.log(trees[1] - trees[0]))
            scale = (self.absolute[h] + self.relative[h] * spread).log()[:, :, None].expand_as(place)
            parts.append((weight.flatten(1), place.flatten(1), scale.flatten(1)))
        found = (torch.cat(part, dim=1)[:, :, None] for part in zip(*parts, strict=True))
        return Components(*found)

    def log_density(self, column: int, x: Tensor, rows: Tensor, linear: Tensor) -> Tensor:
        """log k_i at the values `x`, shape `(n,)`, nats; see `components`."""
        return torch.logsumexp(self._log_w(column) + self.log_kernels(column, x, rows, linear), dim=1)

    def log_kernels(self, column: int, x: Tensor, rows: Tensor, linear: Tensor) -> Tensor:
        """log k_ih at the values `x`, shape `(n, kernels)`, nats; -inf where no float tells it from zero."""
        leaves, found = _Leaves(self, column, rows, linear), list[Tensor]()
        squares = dict[tuple[int, int, int], Tensor]()
        for h, trees in self._kernels(column):
            moves = int(self.moves[h])
            place, spread = leaves.centres(moves, trees)
            key = (moves, *trees)
            if key not in squares:
                squares[key] = (x[:, None, None] - place).square()
            rate = (self.absolute[h] + self.relative[h] * spread).reciprocal()
            heights = _exponentials(squares[key] * (-0.5 * rate.square())[:, :, None])
            of_tree = (heights * leaves.held(trees)[1].exp()).sum(dim=2) * rate
            found.append(of_tree.sum(dim=1) / (trees[1] - trees[0]))
        densities = torch.stack(found, dim=1)
        seen = densities > 0
        logs = torch.where(seen, densities, 1.0).log()
        return torch.where(seen, logs, -math.inf) - log_root_two_pi

    def _kernels(self, column: int) -> Iterator[tuple[int, tuple[int, int]]]:
        """The number h of each kernel of a column, and first and last of its trees."""
        for h in range(*self.kernel_start[column : column + 2].tolist()):
            first, last = self.trees[h].tolist()
            yield h, (first, last)

    def _log_w(self, column: int) -> Tensor:
        """Logarithms of the weights of a column's kernels, of sum 1 whatever their rounding."""
        start, stop = self.kernel_start[column : column + 2].tolist()
        return torch.log_softmax(self.log_w[start:stop], dim=0)

    def reached(self, column: int, rows: Tensor) -> Tensor:
        """The leaves that rows fall into, shape `(n, trees)`; a leaf leads to itself here."""
        start, stop = self.node_start[column : column + 2].tolist()
        feature, threshold = self.feature[start:stop].int(), self.threshold[start:stop]
        is_leaf, places = feature < 0, torch.arange(stop - start, device=rows.device, dtype=torch.int32)
        link = torch.where(is_leaf, places, self.link[start:stop] - start)
        threshold = torch.where(is_leaf, math.inf, threshold)
        feature = feature.clamp_min(0)
        n, trees = len(rows), self.shape.trees
        first = torch.arange(n, device=rows.device, dtype=torch.int32) * rows.shape[1]
        first = first[:, None].expand(-1, trees).reshape(-1)
        at, numbers = (self.roots[column] - start).expand(n, -1).reshape(-1), rows.reshape(-1)
        for _ in range(self.shape.depth):
            seen = numbers.index_select(0, first + feature.index_select(0, at))
            following = link.index_select(0, at) + (seen > threshold.index_select(0, at))
            if not is_transformed(rows) and torch.equal(following, at):
                break
            at = following
        reached: Tensor = at.view(n, trees) + start
        return reached

    def check_numbers(self, context_dim: int) -> None:
        """Refuse trees that see a later column, that do not end, or that lead out of the stored values.

        Raises:
            ValueError: Such numbers; the message names their tensor.
        """
        shape, places = self.shape, torch.arange(self.shape.nodes)
        starts, kernels = self.node_start.long(), self.kernel_start.long()
        for name, start, total in (
            ("node_start", starts, shape.nodes),
            ("kernel_start", kernels, shape.kernels),
        ):
            if bool((start.diff() < 0).any()) or int(start[0]) != 0 or int(start[-1]) != total:
                raise ValueError(f"tensor leaves.{name}: expected numbers from 0 to {total} that do not fall")
        column = torch.searchsorted(starts[1:], places, right=True)
        inner, link, size = self.feature >= 0, self.link.long(), self.size.long()
        if bool((self.feature >= context_dim + column).any()):
            raise ValueError("tensor leaves.feature: expected columns before the one that the tree is of")
        if bool(((link <= places) | (link + 1 >= starts[1:][column]))[inner].any()):
            raise ValueError("tensor leaves.link: expected later nodes of the same column")
        leaf = ~inner
        if bool(((self.members < 0) | (self.members > shape.members)).any()):
            raise ValueError(f"tensor leaves.members: expected numbers up to {shape.members}")
        if bool(((size < 1) | (link < 0) | (link + size > shape.values))[leaf].any()):
            raise ValueError("tensor leaves.size: expected leaves of stored values")
        if bool(((self.member < 0) | (self.member >= shape.rows)).any()):
            raise ValueError(f"tensor leaves.member: expected rows from 0 to {shape.rows - 1}")
        self._check_kernels(starts, kernels)
        self._check_depth()

    def _check_kernels(self, starts: Tensor, kernels: Tensor) -> None:
        share, first, last = self.share, self.trees[:, 0], self.trees[:, 1]
        if bool(((first < 0) | (last <= first) | (last > self.shape.trees)).any()):
            raise ValueError(f"tensor leaves.trees: expected first and last of {self.shape.trees} trees")
        if bool(((share < 0) | (share >= 1)).any()):
            raise ValueError("tensor leaves.share: expected numbers of at least 0 and below 1")
        positive = (self.absolute > 0) & (self.relative >= 0) & ((self.moves == 0) | (self.moves == 1))
        if not bool(positive.all()):
            raise ValueError("tensors leaves.absolute, relative, moves: expected widths above 0, and 0 or 1")
        for i in self.columns:
            if bool((self.members[i] < 1).any()):
                raise ValueError("tensor leaves.members: expected a value in each leaf of a column's trees")
            total = float(self.log_w[kernels[i] : kernels[i + 1]].double().logsumexp(dim=0))
            roots = self.roots[i]
            if abs(total) > 1e-3 or bool(((roots < starts[i]) | (roots >= starts[i + 1])).any()):
                raise ValueError(
                    "tensors leaves.log_w, roots: expected weights of sum 1, roots of the column"
                )

    def _check_depth(self) -> None:
        """Each way from a root must end in a leaf after `depth` splits at most."""
        at = self.roots[self.columns].long().flatten()
        for _ in range(min(self.shape.depth, self.shape.nodes)):
            below = self.link[at[self.feature[at] >= 0]].long()
            reached = torch.zeros(self.shape.nodes, dtype=torch.bool, device=at.device)
            reached[below] = reached[below + 1] = True
            at = reached.nonzero()[:, 0]
        if bool((self.feature[at] >= 0).any()) or self.shape.depth > self.shape.nodes:
            raise ValueError(f"tensor leaves.link: expected leaves after {self.shape.depth} splits at most")


class _Leaves:
    """What the leaves hold that rows fall into, found out once and where a kernel asks for it.

    Arguments:
        kernels: The trees.
        column: i.
        rows: Context and columns before i.
        linear: l_i at the rows.
    """

    def __init__(self, kernels: LeafKernels, column: int, rows: Tensor, linear: Tensor) -> None:
        self._all, self._column, self._linear = kernels, column, linear
        self._at = kernels.reached(column, rows.detach())
        self._held = dict[tuple[int, int], tuple[Tensor, Tensor]]()
        self._centres = dict[tuple[int, int, int], tuple[Tensor, Tensor]]()

    def held(self, trees: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Rows that the leaves of some trees hold, `(n, trees, m)`, and the logarithms of their shares."""
        if trees not in self._held:
            every, at = self._all, self._at[:, slice(*trees)]
            most = every.members[self._column, slice(*trees)]
            slots = torch.arange(int(most.max()), device=at.device, dtype=torch.int32)
            size = torch.minimum(every.size[at].int(), most)[:, :, None]
            place = every.link[at][:, :, None] + torch.minimum(slots, size - 1)
            index = every.member.index_select(0, place.reshape(-1)).view(place.shape)
            log_share = torch.where(slots < size, -size.to(every.value).log(), -math.inf)
            self._held[trees] = index, log_share
        return self._held[trees]

    def centres(self, moves: int, trees: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Centres of kernels, as they are or moved with the regression, and each leaf's spread of them."""
        key = (moves, *trees)
        if key not in self._centres:
            index, log_share = self.held(trees)
            values = (self._all.residual if moves else self._all.value)[:, self._column].contiguous()
            place = values.index_select(0, index.reshape(-1)).view(index.shape)
            if moves:
                place = self._linear[:, None, None] + place
            self._centres[key] = place, _spread(place.detach(), log_share)
        return self._centres[key]


def _exponentials(logs: Tensor, *, lowest: float = -80.0) -> Tensor:
    """exp of logarithms, 0 where that is no normal number in float32, which takes thirty times as long."""
    return torch.exp(logs.clamp_min(lowest)) * (logs > lowest)


def _spread(place: Tensor, log_share: Tensor) -> Tensor:
    """Standard deviation of what a leaf holds, shape `(n, trees)`."""
    share = log_share.exp()
    mean = (share * place).sum(dim=2, keepdim=True)
    return (share * (place - mean).square()).sum(dim=2).sqrt()

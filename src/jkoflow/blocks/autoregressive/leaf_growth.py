r"""Leaf kernels for a table: trees are grown, kernels weighed by other rows, and shares by validation rows.

    v = argmax sum_held-out log sum_h v_h k_ih(x_i | x_<i),
    f = argmax sum_validation log((1 - f) mixture_i(x_i | x_<i) + f k_i(x_i | x_<i))

Source: Dempster, Laird & Rubin (1977), J. R. Stat. Soc. B 39(1), for EM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from jkoflow.blocks.autoregressive.leaf_kernels import LeafKernels, LeafShape, Regressed
from jkoflow.blocks.autoregressive.leaf_rules import LeafRules
from jkoflow.blocks.autoregressive.leaf_trees import Trees, trees_of

__all__ = ["grow_leaves", "share_of"]


@torch.no_grad()
def grow_leaves(
    rows: Regressed,
    validation: Regressed,
    by_others: Tensor,
    rules: LeafRules,
    seed: int,
    columns: Sequence[int],
) -> LeafKernels | None:
    """Trees and weighed kernels of those columns that they serve; None where they serve none.

    Arguments:
        rows: Training rows in random order.
        validation: Validation rows.
        by_others: log p(x_i | x_<i) of the validation rows without kernels, shape `(n, d)`, nats.
        rules: See `LeafRules`.
        seed: Of the trees.
        columns: The columns that are tried.
    """
    n, dim = len(rows.joint), by_others.shape[1]
    fewest, most = rules.held_rows
    held = min(max(int(rules.held_share * n), fewest), most)
    grown, held_out = rows.rows(slice(0, min(n - held, rules.most_rows))), rows.rows(slice(n - held, n))
    if n - held < 2 * max(rules.leaves):
        return None
    columns, first = sorted(columns), rows.joint.shape[1] - dim
    trees = {i: trees_of(grown, first + i, i, rules, seed + i) for i in columns}
    bare = _joined(grown, dim, trees, rules)
    kernels = {i: _weighed(bare, held_out, i, rules) for i in columns}
    shares = _shares(_with_kernels(bare, kernels), validation, by_others, rules)
    kept = [i for i in columns if shares[i] > 0]
    if not kept:
        return None
    if len(kept) < len(trees):
        bare = _joined(grown, dim, {i: trees[i] for i in kept}, rules)
    leaves = _with_kernels(bare, {i: kernels[i] for i in kept})
    for i in kept:
        leaves.share[i] = shares[i]
    return leaves


def _shares(leaves: LeafKernels, rows: Regressed, by_others: Tensor, rules: LeafRules) -> dict[int, float]:
    """The share of each column's kernels beside its other conditionals."""
    first, found = rows.joint.shape[1] - leaves.dim, dict[int, float]()
    for i in leaves.columns:
        kernels = leaves.log_density(i, rows.joint[:, first + i], rows.joint, rows.linear[:, i])
        found[i] = share_of(kernels, by_others[:, i], rules)
    return found


def share_of(log_prob: Tensor, by_others: Tensor, rules: LeafRules) -> float:
    """The share of one density beside another under which rows are likeliest, by EM; 0 where it is small.

    Arguments:
        log_prob: Of the one, shape `(n,)`, nats.
        by_others: Of the other, shape `(n,)`.
        rules: See `LeafRules`.
    """
    odds, share = (log_prob - by_others).double(), torch.tensor(0.5, dtype=torch.float64)
    for _ in range(rules.iterations):
        belongs = torch.sigmoid(odds + torch.logit(share))
        share = (belongs.sum() + rules.prior_rows) / (len(odds) + 2 * rules.prior_rows)
    return float(share) if share > rules.least_share else 0.0


def _joined(rows: Regressed, dim: int, found: dict[int, Trees], rules: LeafRules) -> LeafKernels:
    """The trees of the columns that have some, in ascending order, without kernels."""
    of_columns = found.values()
    sizes = sum(len(part.feature) for part in of_columns), sum(len(part.member) for part in of_columns)
    shape = LeafShape(
        trees=sum(rules.trees),
        depth=max(part.depth for part in of_columns),
        members=max(*rules.members_of(dim), rules.first_members),
        nodes=sizes[0],
        values=sizes[1],
        rows=len(rows.joint),
        kernels=0,
    )
    leaves = LeafKernels(shape, dim).to(rows.joint)
    nodes = values = 0
    for i in range(dim):
        leaves.node_start[i] = nodes
        if i in found:
            part = found[i]
            here = slice(nodes, nodes + len(part.feature))
            leaves.members[i] = torch.as_tensor(np.maximum.reduceat(part.size, part.roots))
            leaves.roots[i] = torch.tensor(part.roots, dtype=torch.int32) + nodes
            for buffer, numbers in (
                (leaves.feature, part.feature),
                (leaves.threshold, part.threshold),
                (leaves.link, part.link + np.where(part.feature < 0, values, nodes)),
                (leaves.size, part.size),
            ):
                buffer[here] = torch.as_tensor(numbers).to(buffer)
            leaves.member[values : values + len(part.member)] = torch.as_tensor(part.member).to(leaves.member)
            nodes, values = here.stop, values + len(part.member)
    leaves.node_start[dim] = nodes
    value = rows.joint[:, rows.joint.shape[1] - dim :]
    leaves.value.copy_(value)
    leaves.residual.copy_(value - rows.linear)
    return leaves


# ── kernels ──


class _Kernels(NamedTuple):
    """The kernels of one column, as `LeafKernels` has them."""

    log_w: Tensor
    absolute: Tensor
    relative: Tensor
    moves: Tensor
    trees: Tensor

    def part(self, index: Tensor) -> _Kernels:
        return _Kernels(*(part[index] for part in self))


def _candidates(leaves: LeafKernels, column: int, rules: LeafRules) -> _Kernels:
    """Each group of trees with values and residuals, and kernels of each width, of equal weights."""
    first, widths = (
        rules.trees[0],
        torch.logspace(0, 1, rules.n_widths, base=rules.widths[1] / rules.widths[0]),
    )
    groups, found = ((0, first), (first, sum(rules.trees))), list[tuple[float, float, int, int, int]]()
    spreads = leaves.value[:, column].std(), leaves.residual[:, column].std()
    least = rules.least_width * float(spreads[0])
    for group in groups:
        if group[0] == group[1]:
            continue
        for moves, spread in enumerate(spreads):
            absolute = [max(rules.widths[0] * float(width * spread), least) for width in widths]
            found += [(width, 0.0, moves, *group) for width in absolute]
            found += [(least, multiple, moves, *group) for multiple in rules.multiples]
    numbers = torch.tensor(found, dtype=leaves.value.dtype)
    whole = numbers[:, 2:].to(torch.int32)
    weight = torch.full((len(found),), 1 / len(found), dtype=leaves.value.dtype).log()
    return _Kernels(weight, numbers[:, 0], numbers[:, 1], whole[:, 0], whole[:, 1:])


def _weighed(leaves: LeafKernels, rows: Regressed, column: int, rules: LeafRules) -> _Kernels:
    """The kernels of one column that held-out rows believe most, with their weights."""
    candidates = _candidates(leaves, column, rules)
    x = rows.joint[:, rows.joint.shape[1] - leaves.dim + column]
    alone = _with_kernels(leaves, {column: candidates})
    densities = alone.log_kernels(column, x, rows.joint, rows.linear[:, column]).double().exp()
    w = _em(densities, rules.iterations)
    kept = w.topk(min(rules.kernels, len(w))).indices.sort().values
    w = _em(densities[:, kept], rules.iterations)
    return candidates.part(kept)._replace(log_w=w.log().to(candidates.log_w))


def _em(densities: Tensor, iterations: int) -> Tensor:
    """Weights of sum 1 under which rows are likeliest, of their densities `(n, kernels)`.

    A row that no kernel reaches says nothing, and no weight becomes zero.
    """
    least = torch.finfo(densities.dtype).tiny
    w = torch.full_like(densities[0], 1 / densities.shape[1])
    for _ in range(iterations):
        shares = densities * w
        w = (shares / shares.sum(dim=1, keepdim=True).clamp_min(least)).sum(dim=0) + 1e-6
        w = w / w.sum()
    return w


def _with_kernels(leaves: LeafKernels, kernels: dict[int, _Kernels]) -> LeafKernels:
    """The same trees with these kernels of columns in ascending order."""
    of_each = kernels.values()
    total = sum(len(part.log_w) for part in of_each)
    found = LeafKernels(replace(leaves.shape, kernels=total), leaves.dim).to(leaves.value)
    of_kernels = {"log_w", "absolute", "relative", "moves", "trees"}
    for name, buffer in leaves.named_buffers():
        if name not in of_kernels | {"kernel_start"}:  # the same tensors, since trees are large
            setattr(found, name, buffer)
    for name in of_kernels:
        getattr(found, name).copy_(torch.cat([getattr(part, name) for part in of_each]))
    counts = torch.zeros(leaves.dim, dtype=torch.int64)
    for i, part in kernels.items():
        counts[i] = len(part.log_w)
    found.kernel_start[1:] = counts.cumsum(0)
    return found

r"""Trees that predict what a linear regression leaves of a column, as arrays of nodes and of leaf members.

    x_i - l_i(x_<i)  from  (c, x_<i)

Trees are extremely randomised; those of small leaves see fine structure, those of large ones the rest.
Source: Geurts, Ernst & Wehenkel (2006), "Extremely randomized trees", Mach. Learn. 63, by scikit-learn.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from jkoflow.blocks.autoregressive.leaf_kernels import Regressed
from jkoflow.blocks.autoregressive.leaf_rules import LeafRules

__all__ = ["Trees", "trees_of"]

Reals = npt.NDArray[np.float32]
Wholes = npt.NDArray[np.int64]


class Trees(NamedTuple):
    """The trees of one column, their nodes one after the other; links count from the column's first node."""

    roots: list[int]
    feature: Wholes
    threshold: Reals
    link: Wholes
    size: Wholes
    member: Wholes
    depth: int


def trees_of(rows: Regressed, place: int, column: int, rules: LeafRules, seed: int) -> Trees:
    """Both groups of trees of one column; a column with none before it has leaves alone.

    Arguments:
        rows: Training rows.
        place: Number of the column among all, those of the context included.
        column: Its number without them.
        rules: See `LeafRules`.
        seed: Of the trees.
    """
    goal = (rows.joint[:, place] - rows.linear[:, column]).float().cpu().numpy()
    looked_at = _nearest_columns(rows.joint[:, : place + 1], rules.split_columns)
    seen = np.ascontiguousarray(rows.joint[:, looked_at].float().cpu().numpy())
    by_value = np.argsort(rows.joint[:, place].cpu().numpy(), kind="stable")
    parts = list[tuple[Any, ...]]()
    groups = zip(rules.leaves, rules.trees, rules.members_of(rows.linear.shape[1]), strict=True)
    for group, (fewest, n_trees, members) in enumerate(groups):
        for tree in _grown(seen, goal, fewest, n_trees, seed + group * 10**6):
            if tree is None:
                parts.append(_one_leaf(by_value, rules.first_members, len(parts), sum(rules.trees)))
            else:
                parts.append(_flat(tree, seen, by_value, members))
    roots, nodes, values = [], 0, 0
    for here, _, links, _, members, _ in parts:
        roots.append(nodes)
        links += np.where(here < 0, values, nodes)
        nodes, values = nodes + len(here), values + len(members)
    feature, threshold, link, size, member = (
        np.concatenate(part) for part in list(zip(*parts, strict=True))[:5]
    )
    depth = max(part[5] for part in parts)
    if len(looked_at):
        feature = np.where(feature < 0, feature, looked_at.numpy()[feature])
    return Trees(roots, feature, threshold, link, size, member, depth)


def _nearest_columns(rows: Tensor, most: int) -> Tensor:
    """The columns that correlate most with the last one, in ascending order; all where there are few."""
    place = rows.shape[1] - 1
    if place <= most:
        return torch.arange(place)
    centred = rows.double() - rows.double().mean(dim=0)
    products = centred[:, :-1].T @ centred[:, -1]
    correlation = products.abs() / centred[:, :-1].square().sum(dim=0).sqrt().clamp_min(1e-12)
    return correlation.topk(most).indices.sort().values.cpu()


def _grown(seen: Reals, goal: Reals, fewest: int, n_trees: int, seed: int) -> list[Any]:
    """Trees of scikit-learn; None for each where there is nothing to split by."""
    if seen.shape[1] == 0 or n_trees == 0:
        return [None] * n_trees
    from sklearn.ensemble import ExtraTreesRegressor  # takes longer to import than this package

    forest = ExtraTreesRegressor(n_trees, min_samples_leaf=fewest, bootstrap=True, random_state=seed)
    return [grown.tree_ for grown in forest.fit(seen, goal).estimators_]


def _one_leaf(by_value: Wholes, members: int, number: int, n_trees: int) -> tuple[Any, ...]:
    """The same as `_flat` for a tree without a split: its values lie between those of the other trees."""
    places = (np.arange(members) + (number + 0.5) / n_trees) * (len(by_value) / members)
    one = np.ones(1, dtype=np.int64)
    member = by_value[np.minimum(places.astype(int), len(by_value) - 1)]
    return -one, np.zeros(1, dtype=np.float32), 0 * one, members * one, member, 0


def _flat(tree: Any, seen: Reals, by_value: Wholes, members: int) -> tuple[Any, ...]:
    """Feature (-1 in a leaf), threshold, link, size, and members of the nodes of one tree, and its depth.

    `by_value` has the rows in the order of their values.

    Nodes are numbered so that siblings are neighbours and come after their parent. Of a leaf with more rows
    than `members` evenly spaced ones are taken.
    """
    left, right = tree.children_left, tree.children_right
    new, order_of_nodes = _siblings_together(left, right)
    inner = left[order_of_nodes] >= 0
    feature = np.where(inner, tree.feature[order_of_nodes], -1)
    threshold = _rounded_down(tree.threshold[order_of_nodes])
    link = np.where(inner, new[left[order_of_nodes]], 0)
    node = new[tree.apply(seen)]
    order = by_value[np.argsort(node[by_value], kind="stable")]
    counts = np.bincount(node, minlength=len(new))
    starts, size = np.cumsum(counts) - counts, np.minimum(counts, members)
    owner = np.repeat(np.arange(len(new)), size)
    slot = np.arange(len(owner)) - np.repeat(np.cumsum(size) - size, size)
    member = order[starts[owner] + ((slot + 0.5) * counts[owner] / size[owner]).astype(int)]
    link = np.where(inner, link, np.cumsum(size) - size)
    return feature, threshold, link, np.where(inner, 0, size), member, int(tree.max_depth)


def _siblings_together(left: Wholes, right: Wholes) -> tuple[Wholes, Wholes]:
    """The new number of each node, and the nodes in their new order, level by level."""
    order, level = [np.zeros(1, dtype=np.int64)], np.zeros(1, dtype=np.int64)
    while True:
        inner = level[left[level] >= 0]
        if not len(inner):
            break
        level = np.column_stack([left[inner], right[inner]]).ravel()
        order.append(level)
    nodes = np.concatenate(order)
    new = np.empty(len(nodes), dtype=np.int64)
    new[nodes] = np.arange(len(nodes))
    return new, nodes


def _rounded_down(threshold: npt.NDArray[np.float64]) -> Reals:
    """The greatest float32 numbers that are not above: float32 rows fall on the same sides of them."""
    near = threshold.astype(np.float32)
    return np.where(near > threshold, np.nextafter(near, np.float32(-np.inf)), near)

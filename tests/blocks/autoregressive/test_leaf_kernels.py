"""Kernels at the leaves of trees learn what jumps, see earlier columns alone, and refuse broken numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from jkoflow.blocks.autoregressive import (
    AutoregressiveBlock,
    AutoregressiveFamily,
    AutoregressiveRules,
    LeafRules,
)
from jkoflow.blocks.autoregressive.leaf_kernels import LeafKernels, Regressed
from jkoflow.blocks.autoregressive.leaf_trees import trees_of
from jkoflow.particles import Particles
from oracles.blocks import autodiff_log_det, context_for, generator, make_block, points

RULES = LeafRules(trees=(6, 6))
NAMES = ["autoregressive_with_more", "autoregressive_with_more_context"]


def stairs(n: int, seed: int) -> Tensor:
    """x_1 is uniform on [0, 8), x_2 normal of width 0.05 about a level that jumps with every unit of x_1."""
    source = generator(seed)
    first = 8 * torch.rand(n, generator=source, dtype=torch.float64)
    level = torch.tensor([0.0, 3.0, -1.0, 2.0, -3.0, 1.0, -2.0, 0.5], dtype=torch.float64)[first.long()]
    noise = torch.randn(n, generator=source, dtype=torch.float64)
    return torch.stack([first, level + 0.05 * noise], dim=1)


def entropy_of_stairs() -> float:
    return math.log(8) + math.log(0.05) + 0.5 * math.log(2 * math.pi * math.e)


def start(rows: Tensor) -> AutoregressiveBlock:
    sizes = AutoregressiveRules(width=(8, 8), fixed=(8, 8), n_moving=2)
    return AutoregressiveFamily(sizes).new(Particles(rows), math.inf, generator=generator(0))


def grown(rows: int = 4000, **rules: object) -> AutoregressiveBlock:
    block = start(stairs(rows, 1))
    block.grow_leaves(Particles(stairs(rows, 1)), Particles(stairs(800, 2)), replace(RULES, **rules), seed=3)
    return block.requires_grad_(False)


def leaves_of(block: AutoregressiveBlock) -> LeafKernels:
    assert block.conditionals.leaves is not None
    return block.conditionals.leaves


def with_more(name: str, dim: int = 3) -> AutoregressiveBlock:
    block = make_block(name, dim=dim)
    assert isinstance(block, AutoregressiveBlock)
    assert block.conditionals.leaves is not None
    assert block.conditionals.gaussians is not None
    return block


def test_kernels_learn_jumps_that_mixtures_do_not_follow() -> None:
    fresh, without, block = stairs(2000, 4), start(stairs(4000, 1)), grown()
    with torch.no_grad():
        gaps = [-float(one.source_log_prob(fresh).mean()) - entropy_of_stairs() for one in (without, block)]
    assert gaps[0] > 1.5
    assert 0 < gaps[1] < 0.35
    assert leaves_of(block).share[1] > 0.9


def test_more_rows_and_trees_come_nearer() -> None:
    fresh = stairs(2000, 4)
    nats = [
        -float(grown(rows, trees=trees).source_log_prob(fresh).mean())
        for rows, trees in ((1000, (2, 2)), (4000, (2, 2)), (4000, (12, 12)))
    ]
    assert nats[0] > nats[1] > nats[2] > entropy_of_stairs()


def test_density_integrates_to_one_over_each_column() -> None:
    block = grown(widths=(0.01, 1.0), least_width=0.01)
    axis = torch.linspace(-25, 25, 8001, dtype=torch.float64)
    for first in (0.5, 2.999, 3.001, 7.4):
        rows = torch.stack([torch.full_like(axis, first), axis], dim=1)
        density = block.conditionals.log_prob_by_column(rows)[:, 1].exp()
        assert float(torch.trapezoid(density, axis)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_map_has_the_density_and_its_determinant(name: str) -> None:
    """Also where weights were rounded, so that they do not sum to one: a certificate allows 10^-6 nats."""
    block, x = with_more(name).float().double(), points(40, 3)
    context = context_for(block, 40, torch.float64)
    y, log_det = block.push_with_log_det(x, context)
    normal = -0.5 * y.square().sum(dim=1) - 1.5 * math.log(2 * math.pi)
    for expected in (log_det, autodiff_log_det(block, x, context)):
        torch.testing.assert_close(block.source_log_prob(x, context), expected + normal, atol=1e-9, rtol=0)


def test_column_sees_earlier_columns_alone() -> None:
    block, x = with_more("autoregressive_with_more", dim=4), points(30, 4)
    before = block.conditionals.log_prob_by_column(x)
    for place in range(4):
        moved = x.clone()
        moved[:, place] += 0.7
        changed = (block.conditionals.log_prob_by_column(moved) != before).any(dim=0)
        assert not changed[:place].any()
        assert changed[place:].all()


def test_draws_are_of_the_density() -> None:
    """Draws of the stairs lie about the levels as rows do, and are as likely as fresh rows."""
    block = grown()
    noise = torch.randn(4000, 2, generator=generator(5), dtype=torch.float64)
    drawn, fresh = block.source_draw(noise), stairs(4000, 6)
    for x in (drawn, fresh):
        inside = x[:, 0] < 8
        level = x[inside & (x[:, 0] >= 4) & (x[:, 0] < 5), 1]
        assert float(level.median()) == pytest.approx(-3.0, abs=0.05)
    nats = [-float(block.source_log_prob(x).mean()) for x in (drawn, fresh)]
    assert nats[0] == pytest.approx(nats[1], abs=0.3)


def test_leaves_are_those_of_scikit_learn() -> None:
    """Each training row falls into the leaf that scikit-learn's own tree puts it in."""
    x = points(500, 3, seed=3)
    rows = Regressed(x, torch.zeros_like(x))
    trees = trees_of(rows, 2, 2, replace(RULES, trees=(1, 0), members=(255, 255), leaves=(5, 5)), 0)
    at = np.zeros(500, dtype=int)
    for _ in range(trees.depth):
        inner = trees.feature[at] >= 0
        seen = x.float().numpy()[np.arange(500), np.maximum(trees.feature[at], 0)]
        at = np.where(inner, trees.link[at] + (seen > trees.threshold[at]), at)
    leaf = trees.feature < 0
    assert sorted(trees.member.tolist()) == list(range(500))
    for node in np.flatnonzero(leaf):
        members = trees.member[trees.link[node] : trees.link[node] + trees.size[node]]
        assert sorted(members) == np.flatnonzero(at == node).tolist()
        assert len(members) >= 1


def test_rows_of_no_structure_get_no_kernels() -> None:
    """Independent normal columns: the mixtures of the start are all there is to say."""
    rows = torch.randn(3000, 3, generator=generator(7), dtype=torch.float64)
    block = start(rows[:2000])
    block.grow_leaves(Particles(rows[:2000]), Particles(rows[2000:]), RULES, seed=1)
    fresh = torch.randn(2000, 3, generator=generator(8), dtype=torch.float64)
    entropy = 1.5 * math.log(2 * math.pi * math.e)
    with torch.no_grad():
        assert -float(block.source_log_prob(fresh).mean()) - entropy < 0.05


def test_too_few_rows_grow_nothing() -> None:
    rows = stairs(60, 1)
    block = start(rows)
    block.grow_leaves(Particles(rows), Particles(rows), RULES, seed=1)
    assert block.conditionals.leaves is None


@pytest.mark.parametrize(
    ("tensor", "value", "message"),
    [
        ("feature", 1, "expected columns before the one"),
        ("link", 0, "expected later nodes"),
        ("size", 0, "expected leaves of stored values"),
        ("member", 10**6, "expected rows from 0"),
        ("trees", 99, "expected first and last"),
        ("share", 1.0, "at least 0 and below 1"),
        ("absolute", 0.0, "expected widths above 0"),
        ("log_w", 5.0, "weights of sum 1"),
        ("roots", 10**6, "weights of sum 1, roots of the column"),
        ("node_start", 5, "that do not fall"),
        ("members", 1000, "expected numbers up to"),
    ],
)
def test_broken_numbers_are_refused(tensor: str, value: float, message: str) -> None:
    block = grown(rows=500, trees=(2, 2))
    block.check_numbers()
    numbers = getattr(leaves_of(block), tensor)
    if tensor in ("feature", "link"):
        numbers[leaves_of(block).feature >= 0] = value
    elif tensor == "size":
        numbers[leaves_of(block).feature < 0] = value
    else:
        numbers[...] = value
    with pytest.raises(ValueError, match=message):
        block.check_numbers()


def test_trees_of_many_columns_look_at_those_that_correlate() -> None:
    """Of 40 columns the last is a step of one; the trees find it among the two that they look at."""
    x = points(800, 40, seed=4)
    x[:, 39] = x[:, 17].sign() + 0.05 * points(800, 1, seed=5)[:, 0]
    rows = Regressed(x, torch.zeros_like(x))
    trees = trees_of(rows, 39, 39, replace(RULES, split_columns=2, trees=(3, 0)), 0)
    seen = set(trees.feature[trees.feature >= 0].tolist())
    assert 17 in seen
    assert len(seen) == 2


@pytest.mark.parametrize("depth", [1, 10**9])
def test_depth_that_is_not_that_of_the_trees_is_refused(depth: int) -> None:
    block = grown(rows=500, trees=(2, 2))
    leaves = leaves_of(block)
    leaves.shape = replace(leaves.shape, depth=depth)
    with pytest.raises(ValueError, match=f"expected leaves after {depth} splits"):
        block.check_numbers()

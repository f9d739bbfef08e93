"""What decides on a trained block's map: its value on held-out rows, folds, and rows it cannot invert."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from jkoflow.blocks import AffineBlock, Block, Inverse, NeuralODEBlock
from jkoflow.blocks.judge import InverseCheck, Judge, rows_folded, rows_not_inverted, value_after
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles
from jkoflow.recipe import KeepRules
from oracles.blocks import generator, make_velocity, points


def potential(rows: Particles, image: Tensor, log_det: Tensor) -> Tensor:
    """The value of KL(. | N(0, I)) at each row."""
    return StandardNormal(rows.dim).potential(image) - log_det


def judge_of(x: Tensor, *, weight: Tensor | None = None, check: InverseCheck | None = None) -> Judge:
    rows, law = Particles(x, weight=weight), StandardNormal(x.shape[1])
    draws = partial(law.sample, generator=generator(3))
    return Judge(rows, rows, potential, draws, check or InverseCheck())


def folding(gamma: float = 1.0) -> NeuralODEBlock:
    return NeuralODEBlock(make_velocity(2, seed=6, strength=2.0), gamma=gamma, steps=1).requires_grad_(False)


def folds(block: Block, x: Tensor) -> int:
    """By autodiff, without the block's own Jacobian."""
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: block.push(row[None])[0]))(x)
    return int((torch.linalg.det(jacobian) < 0).sum())


def test_value_is_the_mean_of_g_after_the_block() -> None:
    matrix = torch.tensor([[0.5, 0.1], [0.1, 2.0]], dtype=torch.float64)
    block, x = AffineBlock(dim=2, matrix=matrix), points(50, 2)
    judge = judge_of(x)
    expected = (x @ matrix.T).square().sum(dim=1).mean() / 2 - torch.logdet(matrix)
    assert value_after(block, judge) == pytest.approx(float(expected), rel=1e-12)
    assert judge.before() == pytest.approx(float(x.square().sum(dim=1).mean() / 2), rel=1e-12)


def test_rows_count_by_their_weight_in_the_value() -> None:
    x, weight = points(6, 2), torch.tensor([1.0, 0, 2, 0, 0, 3], dtype=torch.float64)
    block = AffineBlock(dim=2, matrix=0.5 * torch.eye(2, dtype=torch.float64))
    weighted, repeated = judge_of(x, weight=weight), judge_of(x.repeat_interleave(weight.long(), dim=0))
    assert value_after(block, weighted) == pytest.approx(value_after(block, repeated), rel=1e-12)
    assert weighted.before() == pytest.approx(repeated.before(), rel=1e-12)


def test_folds_are_counted_by_the_sign_of_the_determinant() -> None:
    rows = Particles(2 * points(400, 2))
    assert 0 < folds(folding(), rows.x) < 400
    assert rows_folded(folding(), rows, InverseCheck()) == folds(folding(), rows.x)


def test_of_many_rows_every_so_many_is_looked_at_for_folds() -> None:
    rows = Particles(2 * points(400, 2))
    check = InverseCheck(fold_tangents=200)  # 400 rows of 2 columns: a quarter of them
    assert rows_folded(folding(), rows, check) == folds(folding(), rows.x[::4])


def test_beyond_the_largest_dimension_no_fold_is_looked_for() -> None:
    rows = Particles(2 * points(400, 2))
    assert rows_folded(folding(), rows, InverseCheck(largest_dim=1)) == 0


class Missing(AffineBlock):
    """The identity, whose inverse misses rows to the right of `bound` by an error of `miss`."""

    bound, miss = 0.0, 1.0

    def invert(self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None) -> Inverse:
        return Inverse(y, torch.where(y[:, 0] > self.bound, self.miss, 0.0))


def missing(gamma: float, *, bound: float) -> Missing:
    block = Missing(dim=2, gamma=gamma).double()
    block.bound = bound
    return block


def test_rows_whose_inverse_misses_the_tolerance_are_counted_further_out_too() -> None:
    x = torch.tensor([[-1.0, 0.0], [0.9, 0.0], [1.1, 0.0], [0.0, 0.0]], dtype=torch.float64)
    block = missing(0.5, bound=1.0)
    # 1.1 is missed as it is; 1.25 * 0.9 and 1.25 * 1.1 further out
    assert rows_not_inverted(block, judge_of(x)) == 3
    assert rows_not_inverted(block, judge_of(x, check=InverseCheck(further_out=1.0))) == 2
    assert rows_not_inverted(block, judge_of(x, check=InverseCheck(rows=2))) == 1
    block.miss = 1e-13  # within ten tolerances of float64
    assert rows_not_inverted(block, judge_of(x)) == 0


def test_a_free_block_is_inverted_at_draws_of_the_law() -> None:
    """And the farthest of them moved outwards: of 8 draws for 4 rows half, 3 times as far."""
    x, asked = points(4, 2), []

    def draws(count: int) -> Tensor:
        asked.append(count)
        return torch.full((count, 2), 0.9, dtype=torch.float64)

    rows, block = Particles(x), missing(math.inf, bound=1.0)
    judge = Judge(rows, rows, potential, draws, InverseCheck(free_rows=8, free_reach=3.0))
    assert rows_not_inverted(block, judge) == 4
    assert asked == [8]
    finite = missing(0.5, bound=100.0)
    assert rows_not_inverted(finite, judge) == 0
    assert asked == [8], "a finite step asks for no draws"


def test_a_fold_is_a_row_that_is_not_inverted() -> None:
    assert rows_not_inverted(folding(), judge_of(2 * points(100, 2))) > 0
    gentle = NeuralODEBlock(make_velocity(2, strength=0.1), gamma=1.0, steps=1).requires_grad_(False)
    assert rows_not_inverted(gentle, judge_of(2 * points(100, 2))) == 0


def test_judged_rows_are_the_first_and_fewer_in_high_dimension() -> None:
    rules = KeepRules()
    many = Particles(torch.zeros(40_000, 2))
    assert len(rules.judged(many)) == 40_000
    assert len(rules.judged(Particles(torch.zeros(5000, 16)))) == 1024
    x = points(600, 128)
    assert torch.equal(rules.judged(Particles(x)).x, x[:64])

"""Ways to push with a log-determinant: which are random, and what a fold costs."""

from __future__ import annotations

import math

import pytest
import torch

from jkoflow.blocks import NeuralODEBlock
from jkoflow.blocks.log_det import (
    DIVERGENCES,
    penalised_log_det,
    push_block_with_log_det,
    push_with_log_det_by,
)
from jkoflow.errors import InputError
from jkoflow.particles import Particles
from jkoflow.storage.chunks import TANGENT_ROWS
from jkoflow.world import ALONE, World
from oracles.blocks import generator, make_block, make_velocity, points
from oracles.worlds import run_together

GAMMA = 0.4


def test_unknown_divergence_is_refused() -> None:
    with pytest.raises(InputError, match=r"divergence: expected one of .*, got 'approximate'"):
        push_with_log_det_by("approximate", dim=2, generator=generator())


def test_hutchinson_draws_a_fresh_probe_each_time() -> None:
    block = NeuralODEBlock(make_velocity(4, seed=1), gamma=GAMMA, steps=1).requires_grad_(False)
    batch = Particles(points(16, 4))
    push = push_with_log_det_by("hutchinson", dim=4, generator=generator(1))
    first, second = push(block, batch)[1], push(block, batch)[1]
    assert not torch.equal(first, second)
    again = push_with_log_det_by("hutchinson", dim=4, generator=generator(1))
    assert torch.equal(again(block, batch)[1], first)


def test_deterministic_divergences_draw_nothing() -> None:
    block = NeuralODEBlock(make_velocity(2), gamma=GAMMA, steps=1).requires_grad_(False)
    for divergence in set(DIVERGENCES) - {"hutchinson"}:
        source = generator(1)
        push_with_log_det_by(divergence, dim=2, generator=source)(block, Particles(points(4, 2)))
        assert torch.equal(source.get_state(), generator(1).get_state()), divergence


def test_penalised_log_det_is_the_logarithm_where_no_map_folds() -> None:
    matrices = torch.eye(3, dtype=torch.float64) + 0.2 * points(9, 9).reshape(9, 3, 3)
    torch.testing.assert_close(penalised_log_det(matrices), torch.linalg.slogdet(matrices)[1])


def test_penalised_log_det_goes_on_as_the_tangent_below_a_small_determinant() -> None:
    """det A = a m with m = e^{-6}: log m + a - 1, of the logarithm's slope at a = 1, and continuous there."""
    ratio = torch.tensor([1.0, 0.5, 0.0, -1.0, -3.0], dtype=torch.float64, requires_grad=True)
    small = math.exp(-6)
    matrices = torch.diag_embed(torch.stack([ratio * small, torch.ones_like(ratio)], dim=1))
    values = penalised_log_det(matrices)
    torch.testing.assert_close(values, -6 + ratio - 1)
    off_zero = [0, 1, 3, 4]  # the logarithm has no derivative where the matrix is singular
    slope = torch.autograd.grad(values[off_zero].sum(), ratio)[0][off_zero]
    torch.testing.assert_close(slope, torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("n_rows", [0, 1, TANGENT_ROWS // 3, TANGENT_ROWS])
def test_processes_that_divide_the_chunks_find_the_same_log_det(n_rows: int) -> None:
    block, x = make_block("neural_ode", torch.float32, 2), points(n_rows, 2, torch.float32)

    def pushed(world: World) -> tuple[torch.Tensor, torch.Tensor]:
        return push_block_with_log_det(block, Particles(x, world=world))

    image, log_det = pushed(ALONE)
    for found in run_together(2, pushed):
        assert torch.equal(found[0], image)
        assert torch.equal(found[1], log_det)

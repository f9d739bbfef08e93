"""Conditionals of a Gaussian mixture: those of its density, in any order of columns."""

from __future__ import annotations

import math

import pytest
import torch

from jkoflow.blocks import MixtureBlock
from jkoflow.blocks.autoregressive import AutoregressiveFamily, AutoregressiveRules, LeafRules
from jkoflow.blocks.autoregressive.gaussians import GaussianConditionals
from jkoflow.blocks.mixture_quantile import log_root_two_pi
from jkoflow.laws import GaussianMixture
from jkoflow.particles import Particles
from oracles.blocks import generator, mixture_numbers, points


def law_of(dim: int) -> GaussianMixture:
    weights, means, covariances = mixture_numbers(4, dim, seed=5)
    return GaussianMixture(weights, means, covariances=covariances)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1]])
@pytest.mark.parametrize("context_dim", [0, 2])
def test_conditionals_multiply_to_the_density(order: list[int], context_dim: int) -> None:
    mixture = MixtureBlock.of(law_of(4 + context_dim), context_dim=context_dim).double()
    index, x = torch.tensor(order), points(50, 4)
    context = points(50, context_dim, seed=9) if context_dim else None
    found = GaussianConditionals.of(mixture, index)
    rows = x[:, index] if context is None else torch.cat([context, x[:, index]], dim=1)
    by_column = found.log_prob_by_column(rows)
    torch.testing.assert_close(by_column.sum(dim=1), mixture.source_log_prob(x, context))
    for i in range(4):
        log_w, location, log_scale = (part[:, :, 0] for part in found.components(i, rows))
        torch.testing.assert_close(log_w.exp().sum(dim=1), torch.ones(50, dtype=torch.float64))
        z = (rows[:, context_dim + i, None] - location) * torch.exp(-log_scale)
        heights = log_w - 0.5 * z.square() - log_scale - log_root_two_pi
        torch.testing.assert_close(heights.logsumexp(dim=1), by_column[:, i])


def test_a_block_that_knows_less_takes_them_over() -> None:
    """A start that knows Gaussians alone, beside the true mixture of whole rows."""
    law = law_of(3)
    rows, judged, fresh = (law.sample(n, generator(n)) for n in (1000, 600, 2000))
    block = AutoregressiveFamily(AutoregressiveRules(fixed=(0, 0), n_moving=1)).new(
        Particles(rows), math.inf, generator=generator(1)
    )
    gaps = []
    for mixture in (None, MixtureBlock.of(law).double()):
        if mixture is not None:
            block.add_gaussians(mixture, Particles(judged), LeafRules())
        with torch.no_grad():
            gaps.append(float((law.log_prob(fresh) - block.source_log_prob(fresh)).mean()))
    assert gaps[0] > 0.1
    assert 0 <= gaps[1] < 0.02


def test_what_does_not_serve_is_left_out() -> None:
    law = law_of(3)
    rows = law.sample(1500, generator(1))
    block = AutoregressiveFamily().new(Particles(rows[:1000]), math.inf, generator=generator(1))
    far = MixtureBlock.of(GaussianMixture([1.0], [[50.0, 50.0, 50.0]], stds=[0.1])).double()
    block.add_gaussians(far, Particles(rows[1000:]), LeafRules())
    assert block.conditionals.gaussians is None


@pytest.mark.parametrize(
    ("tensor", "value", "message"),
    [("log_weights", 1.0, "sum 1"), ("inverse_factors", -1.0, "triangular"), ("share", -0.5, "at least 0")],
)
def test_broken_numbers_are_refused(tensor: str, value: float, message: str) -> None:
    found = GaussianConditionals.of(MixtureBlock.of(law_of(3)).double(), torch.arange(3))
    found.check_numbers()
    getattr(found, tensor)[...] = value
    with pytest.raises(ValueError, match=message):
        found.check_numbers()

"""A mixture fitted to particles: where EM starts, rows unlike any other, weights, and the law by itself."""

from __future__ import annotations

import math

import pytest
import torch

from jkoflow.blocks import MixtureBlock
from jkoflow.laws import GaussianMixture, StandardNormal
from jkoflow.particles import Particles
from jkoflow.steps.mixture import EMRules, MixtureRules, fit_mixture, mixture_of
from oracles.blocks import generator, points


def clusters(n_clusters: int) -> GaussianMixture:
    angle = torch.arange(n_clusters, dtype=torch.float64) * 2 * torch.pi / n_clusters
    centres = 4 * torch.stack([angle.cos(), angle.sin()], dim=1)
    return GaussianMixture(torch.ones(n_clusters), centres, stds=0.4 * torch.ones(n_clusters))


def test_start_from_responsibilities_needs_no_luck() -> None:
    """Those of the truth lead to the truth, in one iteration."""
    law = clusters(8)
    x = law.sample(4000, generator(1))
    heights = -(x[:, None] - law.means).square().sum(-1) / (2 * 0.4**2)
    block, found = mixture_of(Particles(x), 8, generator(0), responsibilities=heights.softmax(dim=1))
    means = block.means[:8]
    order = torch.cdist(means.double(), law.means).argmin(dim=1)
    assert torch.equal(order, torch.arange(8))
    torch.testing.assert_close(means, law.means, atol=0.06, rtol=0)
    assert found.shape == (4000, 8)


def test_a_row_unlike_any_other_has_a_density() -> None:
    """Columns that nearly agree, and a row whose do not: 1,000 standard deviations off every component."""
    x = points(3000, 2)
    x[:, 1] = x[:, 0] + 1e-3 * x[:, 1]
    block, _ = mixture_of(Particles(x), 4, generator(0))
    odd = torch.tensor([[0.5, -0.5]], dtype=torch.float64)
    y, log_det = block.push_with_log_det(odd)
    log_density = float((StandardNormal(2).log_prob(y) + log_det)[0])
    scale = x.std(dim=0)
    background = math.log(1 / 3001) - math.log(2 * math.pi * 4 * float(scale.prod())) - 0.25 / 4
    assert log_density == pytest.approx(background, abs=0.1)
    assert torch.allclose(block.pull(y), odd, atol=1e-6)


def test_the_component_for_such_rows_costs_the_others_nearly_nothing() -> None:
    law = clusters(4)
    x = law.sample(3000, generator(1))
    block, _ = mixture_of(Particles(x), 4, generator(0))
    covariances = torch.linalg.inv(block.inverse_factors[:4].mT @ block.inverse_factors[:4])
    alone = MixtureBlock.of(
        GaussianMixture(
            block.log_weights[:4].exp(), block.means[:4], covariances=0.5 * (covariances + covariances.mT)
        )
    )
    nats = [
        float((StandardNormal(2).log_prob(y) + d).mean())
        for y, d in (block.push_with_log_det(x), alone.push_with_log_det(x))
    ]
    assert 0 < nats[1] - nats[0] < 1 / 3000


def test_weighted_rows_are_copies() -> None:
    """Whole weights from the same start: the mixture of the rows, each as often as its weight says."""
    law = clusters(3)
    x = law.sample(600, generator(1))
    weight = torch.randint(1, 4, (600,), generator=generator(2)).double()
    copies = x.repeat_interleave(weight.long(), dim=0)
    heights = -(x[:, None] - law.means).square().sum(-1)
    start = heights.softmax(dim=1)
    rules = MixtureRules(EMRules(iterations=20))
    weighted, _ = mixture_of(
        Particles(x, weight=weight), 3, generator(0), tolerance=0.0, responsibilities=start, rules=rules
    )
    copied, _ = mixture_of(
        Particles(copies),
        3,
        generator(0),
        tolerance=0.0,
        responsibilities=start.repeat_interleave(weight.long(), dim=0),
        rules=rules,
    )
    torch.testing.assert_close(weighted.means[:3], copied.means[:3], atol=1e-6, rtol=0)
    torch.testing.assert_close(weighted.log_weights[:3], copied.log_weights[:3], atol=2e-3, rtol=0)


def test_law_alone_is_that_of_the_rows() -> None:
    law = clusters(4)
    x = 3 + 0.01 * law.sample(4000, generator(1))
    found = fit_mixture(Particles(x), 4, generator(0), MixtureRules())
    fresh = 3 + 0.01 * law.sample(4000, generator(2))
    truth = law.log_prob((fresh - 3) / 0.01) - 2 * math.log(0.01)
    assert float((truth - found.log_prob(fresh)).mean()) < 0.02

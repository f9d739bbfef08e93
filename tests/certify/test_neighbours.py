"""The KL by nearest neighbours against closed forms, and where no density exists."""

from __future__ import annotations

import math

import pytest
import torch

from jkoflow.blocks import AffineBlock
from jkoflow.certify import Evidence
from jkoflow.certify.neighbours import neighbour_kl
from jkoflow.certify.seen import Seen
from jkoflow.flow import Flow
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles
from oracles.blocks import generator


def model(std: float, dim: int) -> Evidence:
    """N(0, std² I)."""
    covariance = std**2 * torch.eye(dim, dtype=torch.float64)
    return Evidence(Flow(StandardNormal(dim), [AffineBlock.whitening(torch.zeros(dim), covariance)]), None)


def seen(evidence: Evidence, x: torch.Tensor) -> Seen:
    return Seen.by(evidence, Particles(x.double()))


@pytest.mark.parametrize(("dim", "std"), [(1, 1.5), (2, 0.7), (5, 1.3), (12, 1.2)])
def test_gaussians_of_other_widths(dim: int, std: float) -> None:
    """KL(N(0, I)‖N(0, s² I)) = d (1/s² - 1 + 2 log s)/2, within four errors."""
    truth = dim * (1 / std**2 - 1 + 2 * math.log(std)) / 2
    evidence = model(std, dim)
    rows = torch.randn(4000, dim, generator=generator(1))
    draws = std * torch.randn(4000, dim, generator=generator(2))
    found = neighbour_kl(seen(evidence, rows), seen(evidence, draws), generator=generator(3))
    assert abs(found.value - truth) < 4 * found.se + (0.02 if dim > 5 else 0.0)
    assert found.interval[0] < found.value < found.interval[1]


def test_interval_is_as_wide_as_the_estimates_scatter() -> None:
    """Over twenty draws of rows the standard deviation of the estimate is about its standard error."""
    evidence = model(1.0, 2)
    found = [
        neighbour_kl(
            seen(evidence, torch.randn(1000, 2, generator=generator(10 + k))),
            seen(evidence, torch.randn(1000, 2, generator=generator(50 + k))),
            generator=generator(k),
        )
        for k in range(20)
    ]
    scatter = float(torch.tensor([one.value for one in found]).std())
    assert 0.5 < scatter / found[0].se < 2.0
    assert sum(one.interval[0] <= 0 <= one.interval[1] for one in found) >= 15


def test_structure_that_no_critic_could_learn_is_seen() -> None:
    """A comb of 400 teeth under 4,000 uniform rows: KL = log 2, ten rows to a tooth."""
    dim = 1
    evidence = model(1.0, dim)
    u = torch.rand(4000, dim, generator=generator(1)).double()
    teeth = ((u * 400).floor() + (u * 400).frac() / 2) / 400
    normal = torch.distributions.Normal(0.0, 1.0)
    rows, draws = (normal.icdf(x.clamp(1e-6, 1 - 1e-6)) for x in (teeth, torch.rand(4000, dim).double()))
    found = neighbour_kl(seen(evidence, rows), seen(evidence, draws), generator=generator(3))
    assert 0.5 * math.log(2) < found.value < 1.2 * math.log(2)


def test_rows_that_coincide_are_left_out() -> None:
    """Three rows in ten are one point, and the others' estimate is as it would be beside them."""
    evidence = model(1.0, 2)
    x = torch.randn(1000, 2, generator=generator(1))
    x[:300] = x[0]
    draws = torch.randn(1000, 2, generator=generator(2))
    found = neighbour_kl(seen(evidence, x), seen(evidence, draws), generator=generator(3))
    assert abs(found.value) < 0.5
    nothing = neighbour_kl(seen(evidence, x[:300]), seen(evidence, draws[:300]), generator=generator(3))
    assert math.isnan(nothing.value)

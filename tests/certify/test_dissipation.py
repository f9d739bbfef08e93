"""The dissipation identity and Fisher's bound against Gaussians, where both sides are known."""

from __future__ import annotations

import math

import pytest
import torch

from jkoflow.blocks import AffineBlock
from jkoflow.certify import Claim, Evidence, dissipation
from jkoflow.certify.dissipation import claims, diffusion_times, integrate_dissipation
from jkoflow.first_order import Norm
from jkoflow.flow import Flow
from jkoflow.laws import Rings, StandardNormal
from jkoflow.particles import Particles
from oracles.blocks import generator


def gaussian_kl(mean: float, std: float, dim: int) -> float:
    return dim * (std**2 + mean**2 - 1 - 2 * math.log(std)) / 2


def gaussian_information(mean: float, std: float, dim: int, time: float) -> float:
    """Of e^{-t} X + s_t Z, X ~ N(mean, std² I): each column has mean e^{-t} mean and this variance."""
    variance = 1 + (std**2 - 1) * math.exp(-2 * time)
    return dim * (mean**2 * math.exp(-2 * time) + (variance - 1) ** 2 / variance)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.5), (0.0, 2.0), (1.0, 1.0), (0.5, 0.8), (0.0, 0.2)])
def test_the_integral_of_the_information_is_the_kl(mean: float, std: float) -> None:
    information = [gaussian_information(mean, std, 3, time) for time in diffusion_times()]
    truth = gaussian_kl(mean, std, 3)
    assert integrate_dissipation(information) == pytest.approx(truth, rel=0.01)


def test_a_law_twice_as_dissipative_is_twice_as_far() -> None:
    information = [gaussian_information(0.3, 1.2, 2, time) for time in diffusion_times()]
    double = integrate_dissipation([2 * part for part in information])
    assert double == pytest.approx(2 * integrate_dissipation(information))


def claims_of(mean: float, std: float, *, dim: int = 3, n: int = 4000) -> list[Claim]:
    flow = Flow(StandardNormal(dim), [AffineBlock(dim=dim)])
    return claims(Evidence(flow, Particles(mean + std * torch.randn(n, dim, generator=generator(1)))))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.3), (0.4, 1.0), (0.2, 0.7)])
def test_both_are_read_from_rows(mean: float, std: float) -> None:
    dissipated, fisher = claims_of(mean, std)
    truth = gaussian_kl(mean, std, 3)
    assert dissipated.measured == pytest.approx(truth, rel=0.2)
    assert dissipated.interval is not None
    assert dissipated.interval[0] < truth < dissipated.interval[1]
    assert fisher.measured == pytest.approx(gaussian_information(mean, std, 3, 0.0) / 2, rel=0.2)
    assert fisher.measured >= 0.85 * dissipated.measured
    assert dissipated.verdict == fisher.verdict == "told"
    assert (dissipated.kind, fisher.kind) == ("plug-in", "upper-under-assumption")


def test_normal_rows_dissipate_nothing() -> None:
    dissipated, fisher = claims_of(0.0, 1.0)
    assert abs(dissipated.measured or 0.0) < 0.01
    assert dissipated.verdict == ("told" if (dissipated.measured or 0.0) >= 0 else "undecided")
    assert (fisher.verdict, fisher.measured) == ("undecided", None)
    assert "no proof" in fisher.assumption


@pytest.mark.parametrize("square", [-573.0, math.nan, math.inf])
def test_what_no_kl_can_be_is_undecided(square: float) -> None:
    information = [Norm(square, 100.0)] * len(diffusion_times())
    claim = dissipation._dissipation_claim(information, 400)
    assert (claim.verdict, claim.says) == ("undecided", ())
    assert "no KL is" in claim.assumption
    assert claim.remedy


def test_what_cannot_be_read_is_undecided() -> None:
    flow = Flow(StandardNormal(2), [AffineBlock(dim=2)])
    few, none = Particles(torch.zeros(20, 2)), None
    rings = Flow(Rings((1.0,), 0.1), [AffineBlock(dim=2)])
    rows = Particles(torch.randn(200, 2, generator=generator(2)))
    far = Particles(rows.x.index_fill(0, torch.tensor([0]), math.inf))
    for evidence in (Evidence(flow, few), Evidence(flow, none), Evidence(rings, rows), Evidence(flow, far)):
        (claim,) = claims(evidence)
        assert claim.verdict == "undecided"
        assert claim.assumption
        assert claim.remedy

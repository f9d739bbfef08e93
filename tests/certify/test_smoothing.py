"""W2 between data and smoothed data: continuous, discrete, atoms, and data on a curve."""

from __future__ import annotations

import math

import pytest
import torch

from jkoflow.certify import smoothing
from jkoflow.certify.evidence import Evidence
from jkoflow.flow import Flow
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles
from jkoflow.particles.smoothing import KINDS, Smoothing
from oracles.blocks import generator


def circle(n: int, radius: float = 1.4) -> torch.Tensor:
    angle = 2 * math.pi * torch.rand(n, generator=generator(), dtype=torch.float64)
    return radius * torch.stack([angle.cos(), angle.sin()], dim=1)


def integers(n: int) -> torch.Tensor:
    """A table of counts after uniform noise of one step."""
    counts = torch.randint(0, 6, (n, 2), generator=generator(), dtype=torch.float64)
    return counts - 2.5 + torch.rand(n, 2, generator=generator(1), dtype=torch.float64) - 0.5


DATA = {
    "normal": lambda n: torch.randn(n, 3, generator=generator(), dtype=torch.float64),
    "integers": integers,
    "atom": lambda n: torch.full((n, 2), 1.5, dtype=torch.float64),
    "circle": circle,
}


def evidence(x: torch.Tensor, settings: Smoothing, *, claimed: Smoothing | None = None, **known) -> Evidence:
    particles = Particles(x)
    return Evidence(
        Flow(StandardNormal(x.shape[1])),
        settings.apply(particles, generator(5)),
        unsmoothed=particles,
        smoothing=(claimed or settings).resolve(x),
        **known,
    )


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("delta", [0.05, 0.4])
def test_the_lemma_holds_for_every_kind_of_data(data, delta):
    x = DATA[data](800)
    w2, moved = smoothing.claims(evidence(x, Smoothing(delta=delta)))
    assert (w2.verdict, w2.kind) == ("holds", "theorem")
    assert w2.bound == pytest.approx(delta)
    assert 0 < w2.measured <= math.sqrt(2 / 3) * 1.1 * delta or data == "atom"
    assert moved.verdict == "holds"
    assert w2.measured <= moved.measured * (1 + 1e-9)


def test_an_atom_attains_the_coupling_and_a_curve_stays_below():
    """|e^{-t} a + sigma z - a| for every row of an atom; around a circle half of the noise is for nothing."""
    settings = Smoothing(delta=0.3)
    atom, moved = smoothing.claims(evidence(DATA["atom"](1000), settings))
    assert atom.measured == pytest.approx(moved.measured, rel=1e-9)
    assert moved.measured == pytest.approx(moved.bound, rel=0.05)
    curve, moved = smoothing.claims(evidence(circle(1500), settings))
    assert curve.measured < 0.8 * moved.measured


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_time_that_is_off_by_two_is_found_out(kind, factor):
    x = circle(800)
    found = smoothing.claims(
        evidence(x, Smoothing(kind, time=0.05), claimed=Smoothing(kind, time=0.05 * factor))
    )
    assert found[1].verdict == "fails"
    honest = smoothing.claims(evidence(x, Smoothing(kind, time=0.05)))
    assert honest[1].verdict == "holds"
    assert honest[1].interval[0] < honest[1].bound < honest[1].interval[1]


def test_noise_far_above_the_bound_fails():
    x = DATA["atom"](400)
    w2, _ = smoothing.claims(evidence(x, Smoothing(time=0.5), claimed=Smoothing(time=0.05)))
    assert w2.verdict == "fails"
    assert w2.remedy


def test_the_assignment_does_not_see_the_order_of_the_rows():
    """Rows of two far atoms: what is measured is not the distance of unrelated rows."""
    x = torch.cat([torch.full((200, 1), -5.0), torch.full((200, 1), 5.0)]).double()
    w2, _ = smoothing.claims(evidence(x, Smoothing("brownian", time=0.02)))
    assert w2.measured == pytest.approx(0.2, rel=0.1)


def test_nothing_smoothed_is_told():
    flow = Flow(StandardNormal(2))
    (claim,) = smoothing.claims(Evidence(flow, Particles(circle(100))))
    assert (claim.verdict, claim.measured, claim.bound, claim.assumption) == ("holds", 0.0, 0.0, "")
    (claim,) = smoothing.claims(Evidence(flow, None, dequantised=("age", "rooms")))
    assert "age, rooms" in claim.assumption
    assert "h/sqrt(12)" in claim.assumption


def test_rows_without_their_origin_are_undecided():
    settings, x = Smoothing(time=0.1), circle(100)
    flow = Flow(StandardNormal(2))
    for before, after in ((None, x), (x, None), (x[:60], x), (x[:10], x[:10])):
        (claim,) = smoothing.claims(
            Evidence(
                flow,
                None if after is None else Particles(after),
                unsmoothed=None if before is None else Particles(before),
                smoothing=settings,
            )
        )
        assert claim.verdict == "undecided"
        assert claim.remedy

"""Whether the log-density falls beyond the rows: where it does, where it does not, and what is told of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from jkoflow import JKOFlow
from jkoflow.blocks import AffineBlock, mixture_map
from jkoflow.certify.claim import Claim
from jkoflow.certify.evidence import Evidence
from jkoflow.certify.far_field import claims, largest_rises
from jkoflow.flow import Flow
from jkoflow.laws import GaussianMixture, StandardNormal
from jkoflow.particles import Particles
from oracles.blocks import make_block


def normal_rows(n: int = 300, dim: int = 2) -> Particles:
    return Particles(torch.randn(n, dim, generator=torch.Generator().manual_seed(0)))


def only(evidence: Evidence) -> Claim:
    (claim,) = claims(evidence)
    return claim


def shell(height: float, radius: float, width: float, dim: int = 2) -> Flow:
    """Clusters all around at `radius`, of so much more log-density than what lies within."""
    angles = torch.arange(64) * (2 * math.pi / 64)
    means = torch.cat([torch.zeros(1, 2), radius * torch.stack([angles.cos(), angles.sin()], 1)])
    weights = torch.cat([torch.ones(1), torch.full((64,), math.exp(height))])
    covariances = torch.cat([torch.eye(dim)[None], width**2 * torch.eye(dim).repeat(64, 1, 1)])
    return Flow(StandardNormal(dim), [mixture_map(GaussianMixture(weights, means, covariances=covariances))])


def test_a_normal_law_falls_along_every_ray() -> None:
    for dim in (1, 2, 30):
        claim = only(Evidence(Flow(StandardNormal(dim), [AffineBlock(dim=dim)]), normal_rows(dim=dim)))
        assert claim.verdict == "holds"
        assert claim.measured == 0.0
        assert claim.interval is not None
        assert claim.interval[0] == 0.0


def test_mass_far_out_is_told_with_where_and_how_much() -> None:
    flow = shell(-20.0, 12.0, 1.0)
    claim = only(Evidence(flow, normal_rows()))
    assert claim.verdict == "undecided"
    assert claim.measured == 1.0
    assert f"on {claim.rows} of {claim.rows} rays" in claim.claim
    assert "at radius 12" in claim.claim or "at radius 11" in claim.claim
    assert claim.remedy


def test_rises_are_those_of_the_density() -> None:
    """Of two normal laws on the line, one at 0 and one at 10: from the dip between them to the second."""
    weights, means = torch.tensor([0.9, 0.1]), torch.tensor([[0.0], [10.0]])
    law = GaussianMixture(weights, means, covariances=torch.ones(2, 1, 1))
    flow = Flow(StandardNormal(1), [mixture_map(law)])
    radii = torch.linspace(1.0, 30.0, 2901, dtype=torch.float64)
    rises, places = largest_rises(Evidence(flow, None), torch.tensor([[1.0], [-1.0]]), radii)
    nats = law.log_prob(radii[:, None])
    assert float(rises[0]) == pytest.approx(float(nats[900] - nats[:900].min()), abs=1e-3)
    assert float(places[0]) == pytest.approx(10.0, abs=0.02)
    assert float(rises[1]) == 0.0


def test_a_field_that_goes_on_beyond_its_rows_is_seen() -> None:
    flow = Flow(StandardNormal(2), [make_block("neural_ode", dim=2)])
    nats = only(Evidence(flow, Particles(normal_rows().x.double())))
    assert nats.verdict in ("holds", "undecided")
    assert (nats.measured == 0.0) == (nats.verdict == "holds")


def test_what_is_no_number_and_what_needs_a_context_is_undecided() -> None:
    matrix: Tensor = torch.full((2, 2), math.nan)
    broken = Flow(StandardNormal(2), [AffineBlock(dim=2, matrix=matrix)])
    assert only(Evidence(broken, normal_rows())).verdict == "undecided"
    claim = only(Evidence(Flow(StandardNormal(2), [make_block("neural_ode_context", dim=2)]), None))
    assert claim.verdict == "undecided"
    assert "context" in claim.assumption


def test_without_rows_draws_say_how_far_they_reach() -> None:
    claim = only(Evidence(Flow(StandardNormal(2), [AffineBlock(dim=2)]), None))
    assert claim.verdict == "holds"
    assert "the rows reach to 3" in claim.claim or "the rows reach to 2.9" in claim.claim


# ── fitted models ──


def two_clusters(source: np.random.Generator) -> np.ndarray:
    return source.normal(size=(800, 2)) + 1e6 * (np.arange(800) < 400)[:, None]


def line(source: np.random.Generator) -> np.ndarray:
    along = source.normal(size=800)
    return np.column_stack([along, 2 * along + 1e-3 * source.normal(size=800)])


def curve(source: np.random.Generator) -> np.ndarray:
    along = source.uniform(-2, 2, size=800)
    return np.column_stack([along, along**2]) + 0.01 * source.normal(size=(800, 2))


LAWS = {
    "two clusters": two_clusters,
    "line": line,
    "curve": curve,
    "heavy tails": lambda source: source.standard_t(3, (800, 3)),
    "normal": lambda source: source.normal(size=(800, 2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
def test_beyond_the_rows_the_density_falls_or_the_claim_says_that_it_does_not(law: str) -> None:
    """On 1,000 rays from beyond the rows of the fit, to 1,000 standard deviations."""
    rows = LAWS[law](np.random.default_rng(0))
    model = JKOFlow(random_state=0, budget=5.0).fit(rows).model_
    z = torch.as_tensor(model.schema.standardise(rows))
    evidence = Evidence(model.flow, Particles(z.to(model.like)))
    directions = torch.randn(1000, z.shape[1], generator=torch.Generator().manual_seed(1))
    directions = (directions / directions.norm(dim=1, keepdim=True)).to(model.like)
    reach = float(z.norm(dim=1).max())
    radii = torch.cat([torch.linspace(reach, 8 * reach, 40), torch.logspace(math.log10(9 * reach), 3, 20)])
    rises, _ = largest_rises(evidence, directions, radii.double())
    share = float((rises > 0.5).double().mean())
    claim = only(evidence)
    assert claim.interval is not None
    assert (claim.verdict == "holds" and share < 0.02) or claim.measured > 0.5 * share  # type: ignore[operator]

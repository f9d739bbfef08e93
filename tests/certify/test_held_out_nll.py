"""The held-out NLL, against the closed form of Gaussians."""

from __future__ import annotations

import math

import pytest
import torch

from jkoflow.blocks import AffineBlock
from jkoflow.certify.claim import Certificates, KLBracket
from jkoflow.certify.evidence import LEVEL, Evidence
from jkoflow.certify.held_out_nll import claims
from jkoflow.flow import Flow
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles
from oracles.blocks import DTYPES, context_for, generator, make_block, points

DIM = 3


def told(flow: Flow, rows: Particles | None):
    (claim,) = claims(Evidence(flow, rows))
    return claim


def gaussian_flow(dtype: torch.dtype = torch.float64) -> Flow:
    """q_0 = N(1, 2^2 I)."""
    matrix, offset = 0.5 * torch.eye(DIM, dtype=dtype), torch.full((DIM,), -0.5, dtype=dtype)
    return Flow(StandardNormal(DIM), [AffineBlock(dim=DIM, matrix=matrix, offset=offset)])


def gaussian_rows(n: int, dtype: torch.dtype = torch.float64, *, seed: int = 0) -> Particles:
    """Draws of q_0, whose expected NLL is its entropy."""
    return Particles((1 + 2 * torch.randn(n, DIM, generator=generator(seed), dtype=torch.float64)).to(dtype))


ENTROPY = DIM / 2 * (1 + math.log(2 * math.pi)) + DIM * math.log(2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_mean_is_that_of_the_rows_with_its_standard_error(dtype):
    rows = gaussian_rows(400, dtype)
    claim = told(gaussian_flow(dtype), rows)
    standard = (rows.x.double() - 1) / 2
    nats = standard.square().sum(dim=1) / 2 + DIM / 2 * math.log(2 * math.pi) + DIM * math.log(2)
    assert claim.measured == pytest.approx(float(nats.mean()), abs=1e-5)
    # 1.966 is Student's quantile at 399 degrees of freedom
    half = 1.966 * float(nats.std()) / 20
    assert claim.interval == pytest.approx((claim.measured - half, claim.measured + half), abs=1e-3)
    assert (claim.verdict, claim.bound, claim.rows, claim.level) == ("told", None, 400, LEVEL)
    assert (claim.unit, claim.space, claim.kind) == ("nats", "standardised", "plug-in")


def test_the_interval_holds_the_entropy_as_often_as_it_says():
    flow = gaussian_flow()
    intervals = [told(flow, gaussian_rows(20, seed=seed)).interval for seed in range(200)]
    inside = sum(low <= ENTROPY <= high for low, high in intervals)
    assert 178 <= inside <= 199  # 190 expected


def test_no_rows_are_undecided():
    for rows in (None, Particles(points(0, DIM))):
        claim = told(gaussian_flow(), rows)
        assert (claim.verdict, claim.measured, claim.rows) == ("undecided", None, 0)
        assert claim.remedy


def test_one_row_has_no_interval():
    claim = told(gaussian_flow(), gaussian_rows(1))
    assert (claim.verdict, claim.interval, claim.level) == ("told", None, None)
    assert math.isfinite(claim.measured)


def test_a_row_without_a_density_is_told():
    rows = gaussian_rows(5)
    rows.x[2] = math.inf
    claim = told(gaussian_flow(), rows)
    assert (claim.verdict, claim.measured) == ("undecided", None)
    assert "1 of 5 rows" in claim.assumption


def test_context_is_used():
    block = make_block("neural_ode_context", dim=2)
    flow, x = Flow(StandardNormal(2), [block]), points(30, 2)
    context = context_for(block, 30, torch.float64)
    assert told(flow, Particles(x, context)).measured != told(flow, Particles(x, -context)).measured


def test_it_can_be_stored():
    found = Certificates(KLBracket(), (told(gaussian_flow(), gaussian_rows(50)),))
    assert '"verdict": "told"' in found.to_json()

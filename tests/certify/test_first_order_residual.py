"""eps of each block, read from held-out rows, against exact Gaussian steps with an injected error."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from jkoflow.blocks import AffineBlock
from jkoflow.certify import Claim, Evidence, certify, theorems
from jkoflow.certify import first_order_residual as reader
from jkoflow.certify.first_order_residual import claims, residuals
from jkoflow.exact import AffineError, GaussianState, Quadratic, jko_step, transport_map
from jkoflow.flow import Flow
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles
from oracles.blocks import CONTEXT_DIM, generator, make_block

GAMMAS = (0.5, 1.0, 0.8)
START = GaussianState([1.5, -1.0], [[1.2, 0.3], [0.3, 0.7]])


def claims_of(evidence: Evidence) -> list[Claim]:
    return claims(evidence, residuals(evidence))


def rows_of(state: GaussianState, n: int, seed: int = 1) -> Particles:
    root = torch.linalg.cholesky(torch.tensor(state.covariance))
    noise = torch.randn(n, state.dim, generator=generator(seed), dtype=torch.float64)
    return Particles(torch.tensor(state.mean) + noise @ root.T)


def stepped(
    sizes: tuple[float, ...], start: GaussianState = START, *, free: bool = False
) -> tuple[Flow, list[float]]:
    """Gaussian steps with an injected error of each size, and the norm of each."""
    state, blocks, norms = start, [], []
    potential = Quadratic.standard(start.dim)
    for gamma, size in zip(GAMMAS, sizes, strict=False):
        error = AffineError(np.full(start.dim, size), 0.2 * size * np.eye(start.dim))
        after = jko_step(state, gamma, potential, error=error)
        blocks.append(affine(state, after, gamma))
        norms.append(error.norm(after))
        state = after
    if free:
        blocks.append(affine(state, jko_step(state, math.inf, potential), math.inf))
        norms.append(0.0)
    return Flow(StandardNormal(start.dim), blocks), norms


def affine(before: GaussianState, after: GaussianState, gamma: float) -> AffineBlock:
    step = transport_map(before, after)
    matrix, offset = torch.tensor(step.matrix), torch.tensor(step.offset)
    return AffineBlock(dim=before.dim, gamma=gamma, matrix=matrix, offset=offset)


def by_block(found, start: str):
    return {claim.block: claim for claim in found if claim.claim.startswith(start)}


# ── the numbers ──


def test_injected_errors_are_read_by_block():
    flow, norms = stepped((0.3, 0.8, 0.15))
    found = residuals(Evidence(flow, rows_of(START, 6000)))
    assert [block.number for block in found] == [1, 2, 3]
    assert [block.gamma for block in found] == list(GAMMAS)
    for block, norm in zip(found, norms, strict=True):
        assert block.rows == 4000
        assert block.variational == pytest.approx(norm, rel=0.3)
        assert block.interval[0] <= block.variational <= block.interval[1]
        assert block.interval[0] <= block.lower <= 1.05 * norm
        assert (block.transport_gap, block.derivative.asymmetry) == (0, pytest.approx(0, abs=1e-12))
        assert block.derivative.smallest > 0
    step = transport_map(
        START, jko_step(START, 0.5, Quadratic.standard(2), error=AffineError([0.3] * 2, np.eye(2) * 0.06))
    )
    moved = (step.matrix - np.eye(2)) @ START.covariance @ (step.matrix - np.eye(2)).T
    length = math.sqrt(np.trace(moved) + np.sum((step.target - step.source) ** 2))
    assert found[0].step_length == pytest.approx(length, rel=0.03)


def test_exact_steps_have_next_to_no_residual():
    flow, _ = stepped((0.0, 0.0, 0.0), free=True)
    found = residuals(Evidence(flow, rows_of(START, 4000)))
    assert max(block.variational for block in found) < 0.08
    assert math.isinf(found[-1].gamma)
    assert found[-1].transport_gap == 0
    assert found[-1].own == pytest.approx(0, abs=1e-6)  # q_N = q, and no transport term
    # exact steps that end in q: the model is right, so its own score sees no residual anywhere
    assert max(block.own for block in found) < 1e-6


def test_own_score_does_not_see_what_a_wrong_model_gets_wrong():
    """T = id, one block, at N((3,3), I): xi = (3,3), but the model's own score says (T - id)/gamma = 0."""
    block = AffineBlock(dim=2, gamma=0.5).double()
    rows = rows_of(GaussianState([3.0, 3.0], np.eye(2)), 4000)
    (found,) = residuals(Evidence(Flow(StandardNormal(2), [block]), rows))
    assert found.own == 0
    assert found.variational == pytest.approx(math.sqrt(18), rel=0.03)
    assert found.step_length == 0


def test_same_evidence_same_numbers():
    flow, _ = stepped((0.3,))
    rows = rows_of(START, 500)
    assert residuals(Evidence(flow, rows, 4)) == residuals(Evidence(flow, rows, 4))
    assert residuals(Evidence(flow, rows, 4)) != residuals(Evidence(flow, rows, 5))


# ── the claims ──


def test_claims_tell_and_say_what_they_are():
    flow, norms = stepped((0.6, 0.6), free=True)
    found = claims_of(Evidence(flow, rows_of(START, 3000)))
    below, own = by_block(found, reader._FROM_BELOW), by_block(found, reader._OWN)
    gap, kernel = by_block(found, reader._GAP), by_block(found, reader._KERNEL)
    assert (set(below), set(own), set(gap)) == ({1, 2, 3}, {1, 2}, {1, 2})
    assert set(kernel) <= {1, 2, 3}
    for block in (1, 2):
        assert (below[block].kind, below[block].verdict) == ("lower", "told")
        assert below[block].interval[0] <= norms[block - 1] < math.inf == below[block].interval[1]
        assert below[block].bound is None
        assert own[block].kind == "plug-in"
        assert "model is right" in own[block].assumption
        assert gap[block].verdict == "holds"
        assert gap[block].measured == pytest.approx(0, abs=1e-9)
    assert "free step" in below[3].assumption
    assert all(claim.space == "standardised" and claim.rows > 0 for claim in found)


def test_kernel_is_told_with_its_floor_and_only_in_few_dimensions():
    flow, _ = stepped((3.0,))
    found = by_block(claims_of(Evidence(flow, rows_of(START, 3000))), reader._KERNEL)
    assert found[1].verdict == "told"
    assert found[1].measured == pytest.approx(stepped((3.0,))[1][0], rel=0.2)
    assert "which reads 0." in found[1].claim
    high = GaussianState(np.ones(4), np.eye(4))
    flow, _ = stepped((3.0,), high)
    assert not by_block(claims_of(Evidence(flow, rows_of(high, 3000))), reader._KERNEL)


def test_kernel_is_not_told_where_its_floor_is_high():
    """A step so small that two clouds' distance over gamma is all that it could read."""
    block = AffineBlock(dim=2, gamma=0.01).double()
    found = claims_of(Evidence(Flow(StandardNormal(2), [block]), rows_of(START, 2000)))
    assert not by_block(found, reader._KERNEL)


def test_a_map_that_turns_is_undecided():
    """Rotation by pi at N(0, I/(1 + 2/gamma)): xi' = 0, so what is told is not of xi."""
    gamma = 0.5
    start = GaussianState(np.zeros(2), np.eye(2) / (1 + 2 / gamma))
    block = AffineBlock(dim=2, gamma=gamma, matrix=-torch.eye(2).double(), offset=torch.zeros(2).double())
    evidence = Evidence(Flow(StandardNormal(2), [block]), rows_of(start, 500))
    (found,) = residuals(evidence)
    assert found.variational < 0.4
    assert found.transport_gap == pytest.approx(2 / gamma * math.sqrt(2 / (1 + 2 / gamma)), rel=0.15)
    told = claims_of(evidence)
    assert by_block(told, reader._FROM_BELOW)[1].verdict == "undecided"
    gap = by_block(told, reader._GAP)[1]
    assert gap.verdict == "undecided"
    assert gap.measured > gap.bound
    assert gap.remedy


def test_a_quarter_turn_that_pairs_do_not_see_is_undecided():
    angle = 0.2
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    block = AffineBlock(dim=2, gamma=0.5, matrix=turn.double(), offset=torch.zeros(2).double())
    rows = rows_of(GaussianState(np.zeros(2), 0.5 * np.eye(2)), 400)
    (found,) = residuals(Evidence(Flow(StandardNormal(2), [block]), rows))
    assert found.transport_gap < 0.5 * found.variational
    assert found.derivative.asymmetry == pytest.approx(math.sqrt(2) * math.sin(angle), rel=1e-6)
    assert not found.optimal


@pytest.mark.parametrize("held_out", [None, rows_of(START, 60)])
def test_without_rows_it_is_undecided(held_out):
    flow, _ = stepped((0.3,))
    (claim,) = claims_of(Evidence(flow, held_out))
    assert claim.verdict == "undecided"
    assert "held-out rows" in claim.assumption
    assert "holdout_fraction" in claim.remedy
    assert residuals(Evidence(flow, held_out)) == []


def test_in_a_context_the_pairs_say_nothing():
    block = make_block("neural_ode_context", dim=2)
    context = torch.randn(300, CONTEXT_DIM, generator=generator(2), dtype=torch.float64)
    evidence = Evidence(Flow(StandardNormal(2), [block]), Particles(rows_of(START, 300).x, context))
    (found,) = residuals(evidence)
    assert math.isnan(found.transport_gap)
    assert math.isfinite(found.variational)
    assert not found.optimal
    told = claims_of(evidence)
    assert {claim.verdict for claim in told} == {"undecided"}
    assert by_block(told, reader._GAP)[1].measured is None


def test_it_is_part_of_every_certificate(monkeypatch):
    monkeypatch.setattr("jkoflow.certify._READERS", {"theorems": theorems.claims})
    flow, _ = stepped((0.3,))
    found = certify(Evidence(flow, Particles(rows_of(START, 50).x)))
    assert reader._FROM_BELOW in {claim.claim for claim in found.claims}


def test_float32_flows_are_read_too():
    block = make_block("neural_ode", torch.float32, dim=3)
    rows = Particles(torch.randn(300, 3, generator=generator(0)))
    (found,) = residuals(Evidence(Flow(StandardNormal(3), [block]), rows))
    assert found.own == pytest.approx(found.step_length / block.gamma, rel=1e-3)

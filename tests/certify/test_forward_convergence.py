"""W2 and KL along the blocks, on flows of exact Gaussian steps where everything is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from jkoflow.blocks import NeuralODEBlock
from jkoflow.bounds import forward_kl, forward_w2_squared, sharp_last_step_kl, sharp_w2
from jkoflow.certify import forward_convergence
from jkoflow.certify.evidence import Evidence
from jkoflow.certify.step_errors import StepError, model_residuals
from jkoflow.flow import Flow
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles
from oracles.blocks import generator, make_block, make_velocity
from oracles.gaussian_flows import GaussianFlow, gaussian_flow

PAPER, SHARPER = forward_convergence._PAPER, forward_convergence._SHARPER


def named(found):
    return {(claim.claim, claim.block): claim for claim in found}


def checked(made: GaussianFlow, **options):
    return named(forward_convergence.claims(made.evidence(**options), residuals=made.residuals))


def w2_of(found, name: str, block: int):
    return found[(forward_convergence._W2.format(name), block)]


def kl_of(found, name: str, block: int):
    return found[(forward_convergence._KL.format(name), block)]


@pytest.mark.parametrize(
    ("dim", "gammas"), [(1, (0.5, 0.5, 0.5)), (2, (0.3, 0.9, 2.5)), (3, (1.0, 4.0)), (5, (0.6, 0.6))]
)
def test_exact_flows_are_measured_and_hold(dim, gammas):
    made = gaussian_flow(dim, gammas, eps=0.3)
    found = checked(made)
    for n in range(1, len(gammas) + 1):
        decrease = found[(forward_convergence._DECREASE, n)]
        assert decrease.verdict == "holds"
        assert decrease.measured == pytest.approx(made.kl(n) - made.kl(n - 1), abs=0.1)
        assert decrease.interval[0] < made.kl(n) - made.kl(n - 1) < decrease.interval[1]
        claims = w2_of(found, PAPER, n), w2_of(found, SHARPER, n)
        for claim in claims:
            assert claim.interval[0] - 1e-3 <= made.w2(n) <= claim.interval[1]
            assert claim.interval[0] <= claim.measured <= claim.interval[1]
            assert claim.kind == "plug-in"
            assert claim.verdict != "fails"
        if dim <= 2:
            assert claims[0].verdict == "holds"
            assert claims[0].measured == pytest.approx(made.w2(n), abs=0.1)
        if n < len(gammas):
            for name in (PAPER, SHARPER):
                claim = kl_of(found, name, n)
                assert claim.verdict == "holds"
                assert claim.interval[0] < made.kl(n) - made.kl(len(gammas)) < claim.interval[1]
    assert kl_claims_of_the_last(found, len(gammas)) == []


def kl_claims_of_the_last(found, last):
    return [key for key in found if key[0].startswith("KL(p_n") and key[1] == last]


def test_the_bounds_are_those_of_the_theorem():
    made = gaussian_flow(2, (0.5, 1.5, 3.0), eps=0.2)
    evidence = made.evidence()
    found = named(forward_convergence.claims(evidence, residuals=made.residuals))
    assumption = w2_of(found, PAPER, 1).assumption
    start = float(assumption.split("between ")[1].split(" and")[0])
    assert start == pytest.approx(made.w2(0), rel=0.05)
    assert start < made.w2(0)
    gammas, errors = [0.5, 1.5], [0.2, 0.2]
    close = {"rel": 1e-3}
    bound = math.sqrt(forward_w2_squared(start, gammas, errors, 1.0))
    assert w2_of(found, PAPER, 2).bound == pytest.approx(bound, **close)
    assert w2_of(found, SHARPER, 2).bound == pytest.approx(sharp_w2(start, gammas, errors, 1.0), **close)
    assert kl_of(found, PAPER, 2).bound == pytest.approx(forward_kl(start, gammas, errors, 1.0), **close)
    before = sharp_w2(start, [0.5], [0.2], 1.0)
    assert kl_of(found, SHARPER, 2).bound == pytest.approx(sharp_last_step_kl(before, 1.5, 1.0, 0.2), **close)


def test_steps_that_go_nowhere_are_rejected_where_they_say_that_they_are_exact():
    """Identity blocks of size 2 with eps = 0: W2 stays where the theorem says that it has shrunk."""
    made = gaussian_flow(2, (1e-6, 1e-6, 1e-6))
    claimed = [StepError(2.0, 0.0)] * 3
    found = named(forward_convergence.claims(made.evidence(), residuals=lambda _: claimed))
    for n in (2, 3):
        for name in (PAPER, SHARPER):
            assert w2_of(found, name, n).verdict == "fails"
            assert "eps_n" in w2_of(found, name, n).remedy
    assert found[(forward_convergence._DECREASE, 3)].verdict != "fails"


def test_a_plug_in_from_below_refutes_nothing():
    """Blocks that learned nothing: q_n = q everywhere, so each is an exact step by the model's own score."""
    flow = gaussian_flow(2, (1e-6, 1e-6, 1e-6)).flow
    for block in flow:
        block.gamma = 2.0
    evidence = Evidence(flow, gaussian_flow(2, (1e-6, 1e-6, 1e-6)).evidence().held_out)
    assert max(step.eps for step in model_residuals(evidence)) < 1e-3
    found = named(forward_convergence.claims(evidence))
    for n in (2, 3):
        for name in (PAPER, SHARPER):
            claim = w2_of(found, name, n)
            assert claim.interval[0] > claim.bound  # as in the test before, where it fails
            assert claim.verdict == "undecided"
            assert "too small" in claim.assumption
            assert "eps_n" in claim.remedy


def test_a_block_that_goes_away_raises_the_divergence():
    made = gaussian_flow(2, (0.5, 0.5))
    backwards = Flow(StandardNormal(2), [made.flow.blocks[0], gaussian_away()])
    rows = made.evidence().held_out
    found = named(forward_convergence.claims(Evidence(backwards, rows)))
    assert found[(forward_convergence._DECREASE, 1)].verdict == "holds"
    claim = found[(forward_convergence._DECREASE, 2)]
    assert claim.verdict == "fails"
    assert claim.measured > 1


def gaussian_away():
    """A shift by (3, 0)."""
    block = gaussian_flow(2, (math.inf,)).flow.blocks[0]
    block.matrix, block.offset = torch.eye(2).double(), torch.tensor([3.0, 0.0]).double()
    return block


def test_free_steps_take_the_limit_of_the_bounds():
    """The last block free and exact: W2 <= eps/lambda, and with eps = 0 nothing but 0 is allowed."""
    made = gaussian_flow(1, (0.5, math.inf))
    steps = [StepError(0.5, 0.0), StepError(math.inf, 0.25)]
    found = named(forward_convergence.claims(made.evidence(), residuals=lambda _: steps))
    assert w2_of(found, PAPER, 2).bound == pytest.approx(0.5)
    assert w2_of(found, SHARPER, 2).bound == pytest.approx(0.25)
    assert w2_of(found, SHARPER, 2).verdict == "holds"


def test_a_residual_that_is_given_too_small_is_found_out():
    """Steps that stop at |m| = eps = 1.5, and say that they are exact."""
    made = gaussian_flow(1, (1.0,) * 4, eps=1.5)
    found = named(forward_convergence.claims(made.evidence(), residuals=lambda _: [StepError(1.0, 0.0)] * 4))
    assert w2_of(found, SHARPER, 4).verdict == w2_of(found, PAPER, 4).verdict == "fails"
    assert checked(made)[(forward_convergence._W2.format(PAPER), 4)].verdict == "holds"


# ── what cannot be said ──


def test_no_rows_no_blocks_and_rows_that_are_no_numbers_are_undecided():
    made = gaussian_flow(2, (0.5,))
    rows = made.evidence(150).held_out
    broken = rows.x.clone()
    broken[3] = math.nan
    for evidence, word in (
        (Evidence(made.flow, None), "0 held-out rows"),
        (Evidence(made.flow, rows.rows(slice(0, 20))), "20 held-out rows"),
        (Evidence(Flow(StandardNormal(2)), rows), "no blocks"),
        (Evidence(made.flow, Particles(broken)), "not finite"),
    ):
        (claim,) = forward_convergence.claims(evidence)
        assert claim.verdict == "undecided"
        assert word in claim.assumption
        assert claim.remedy


def test_a_context_leaves_the_decrease_alone():
    block = make_block("neural_ode_context", dim=2)
    x = torch.randn(200, 2, generator=generator(), dtype=torch.float64)
    evidence = Evidence(Flow(StandardNormal(2), [block]), Particles(x, torch.randn(200, 3).double()))
    found = forward_convergence.claims(evidence)
    assert [claim.claim for claim in found[:-1]] == [forward_convergence._DECREASE]
    assert found[-1].verdict == "undecided"
    assert "context" in found[-1].assumption


# ── the plug-in residual ──


def test_the_plug_in_is_the_true_residual_where_the_model_is_exact():
    """A free last step ends in q, so q_n = p_n and every injected eps is found."""
    made = gaussian_flow(3, (0.4, 1.2, math.inf), eps=0.3)
    found = model_residuals(made.evidence())
    assert [step.gamma for step in found] == [0.4, 1.2, math.inf]
    assert [step.eps for step in found[:2]] == pytest.approx([0.3, 0.3], abs=1e-9)


def test_the_plug_in_sees_nothing_of_a_free_last_block_and_says_so():
    """q_N = q whatever the block does: a residual of 0 would prove a bound of 0."""
    made = gaussian_flow(2, (0.5, math.inf))
    far = Flow(StandardNormal(2), [made.flow.blocks[0], gaussian_away()])
    evidence = Evidence(far, made.evidence().held_out)
    assert math.isnan(model_residuals(evidence)[-1].eps)
    found = named(forward_convergence.claims(evidence))
    for name in (PAPER, SHARPER):
        claim = w2_of(found, name, 2)
        assert (claim.verdict, claim.bound) == ("undecided", None)
        assert "free last block" in claim.remedy
        assert w2_of(found, name, 1).bound is not None


def test_the_plug_in_without_a_free_step_is_off_by_the_score_of_the_end():
    """At the last block q_N = q, so xi = (x_N - x_{N-1})/gamma, whatever the step was."""
    made = gaussian_flow(2, (0.5, 0.5))
    evidence = made.evidence(1000)
    x = evidence.held_out.x
    before, after = made.flow.truncated(1).push(x), made.flow.push(x)
    expected = float(((after - before) / 0.5).square().sum(dim=1).mean().sqrt())
    assert model_residuals(evidence)[-1].eps == pytest.approx(expected, rel=1e-9)


def test_the_score_of_a_network_is_that_of_autodiff_through_the_whole():
    blocks = [NeuralODEBlock(make_velocity(2, seed=s, strength=0.3), gamma=0.5, steps=2) for s in (1, 2)]
    flow = Flow(StandardNormal(2), [block.requires_grad_(False) for block in blocks])
    x = torch.randn(120, 2, generator=generator(), dtype=torch.float64)
    middle = blocks[0].push(x).requires_grad_()
    end, log_det = blocks[1].push_with_log_det(middle)
    log_q = (flow.base.log_prob(end) + log_det).sum()
    (score,) = torch.autograd.grad(log_q, middle)
    xi = middle + score - (x - middle) / 0.5
    expected = float(xi.detach().square().sum(dim=1).mean().sqrt())
    assert model_residuals(Evidence(flow, Particles(x)))[0].eps == pytest.approx(expected, rel=1e-9)

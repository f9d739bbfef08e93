"""W2 and KL along the blocks, on flows of exact Gaussian steps where everything is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from jkoflow.bounds import forward_kl, forward_w2_squared, sharp_last_step_kl, sharp_w2
from jkoflow.certify import forward_convergence
from jkoflow.certify.evidence import Evidence
from jkoflow.certify.step_errors import StepError, plug_in_errors
from jkoflow.flow import Flow
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles
from oracles.blocks import generator, make_block
from oracles.gaussian_flows import GaussianFlow, gaussian_flow

PAPER, SHARPER = forward_convergence._PAPER, forward_convergence._SHARPER


def named(found):
    return {(claim.claim, claim.block): claim for claim in found}


def checked(made: GaussianFlow, **options):
    return named(forward_convergence.claims(made.evidence(**options), made.steps))


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
    found = named(forward_convergence.claims(evidence, made.steps))
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
    found = named(forward_convergence.claims(made.evidence(), claimed))
    for n in (2, 3):
        for name in (PAPER, SHARPER):
            assert w2_of(found, name, n).verdict == "fails"
            assert "eps_n" in w2_of(found, name, n).remedy
    assert found[(forward_convergence._DECREASE, 3)].verdict != "fails"


def test_a_block_that_goes_away_raises_the_divergence():
    made = gaussian_flow(2, (0.5, 0.5))
    backwards = Flow(StandardNormal(2), [made.flow.blocks[0], gaussian_away()])
    rows = made.evidence().held_out
    found = named(forward_convergence.claims(Evidence(backwards, rows), made.steps))
    assert found[(forward_convergence._DECREASE, 1)].verdict == "holds"
    claim = found[(forward_convergence._DECREASE, 2)]
    assert claim.verdict == "fails"
    assert claim.measured > 1


def gaussian_away():
    """A shift by (3, 0)."""
    block = gaussian_flow(2, (math.inf,)).flow.blocks[0]
    block.matrix, block.offset = torch.eye(2).double(), torch.tensor([3.0, 0.0]).double()
    return block


def test_the_theorem_is_held_against_the_steps_before_a_free_one_and_anew_after_it():
    made = gaussian_flow(1, (0.5, math.inf, 0.5, 2.0), eps=0.2)
    steps = [StepError(0.5, 0.2), StepError(math.inf, 0.0), StepError(0.5, 0.2), StepError(2.0, 0.2)]
    found = named(forward_convergence.claims(made.evidence(), steps))
    assert {n for (claim, n) in found if claim.startswith("W2")} == {1, 3, 4}
    assert {n for (claim, n) in found if claim.startswith("KL(p_n")} == {1, 3}
    after = w2_of(found, SHARPER, 4)
    start = float(after.assumption.split("W2(p_2, q) between ")[1].split(" and")[0])
    assert after.bound == pytest.approx(sharp_w2(start, [0.5, 2.0], [0.2, 0.2], 1.0), rel=1e-3)


def test_of_free_steps_alone_nothing_but_the_decrease_is_told():
    made = gaussian_flow(1, (math.inf,))
    found = forward_convergence.claims(made.evidence(), made.steps)
    assert [(claim.claim, claim.verdict) for claim in found] == [
        (forward_convergence._DECREASE, "holds"),
        (forward_convergence._W2.format(PAPER), "undecided"),
    ]


def test_a_bound_before_the_last_block_says_what_it_leaves_to_the_whole_flow():
    made = gaussian_flow(1, (0.5, 0.5), eps=0.2)
    claim = kl_of(checked(made), SHARPER, 1)
    (says,) = claim.says
    assert says.quantity == "kl"
    assert says.high == pytest.approx(claim.bound - claim.interval[0])


def test_a_residual_that_is_given_too_small_is_found_out():
    """Steps that stop at |m| = eps = 1.5, and say that they are exact."""
    made = gaussian_flow(1, (1.0,) * 4, eps=1.5)
    found = named(forward_convergence.claims(made.evidence(), [StepError(1.0, 0.0)] * 4))
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
        (claim,) = forward_convergence.claims(evidence, plug_in_errors(evidence.flow, []))
        assert claim.verdict == "undecided"
        assert word in claim.assumption
        assert claim.remedy


def test_a_context_leaves_the_decrease_alone():
    block = make_block("neural_ode_context", dim=2)
    x = torch.randn(200, 2, generator=generator(), dtype=torch.float64)
    evidence = Evidence(Flow(StandardNormal(2), [block]), Particles(x, torch.randn(200, 3).double()))
    found = forward_convergence.claims(evidence, plug_in_errors(evidence.flow, []))
    assert [claim.claim for claim in found[:-1]] == [forward_convergence._DECREASE]
    assert found[-1].verdict == "undecided"
    assert "context" in found[-1].assumption

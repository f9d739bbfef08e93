"""The guarantees on the samples, on flows of exact Gaussian steps where KL(p_0‖q_0) is known."""

from __future__ import annotations

import math

import pytest
import torch

from jkoflow.bounds import blocks_needed, forward_kl, generation_kl, sharp_last_step_kl, sharp_w2
from jkoflow.certify import generation_guarantee as guarantee
from jkoflow.certify.evidence import Evidence
from jkoflow.certify.step_errors import StepError, plug_in_errors
from jkoflow.flow import Flow
from jkoflow.laws import Law, StandardNormal
from jkoflow.particles import Particles
from oracles.gaussian_flows import gaussian_flow

NAMES = (guarantee._COROLLARY, guarantee._UNEQUAL, guarantee._SHARPER)


def named(found):
    return {claim.claim: claim for claim in found}


def checked(made, *, n_rows: int = 3000):
    return named(guarantee.claims(made.evidence(n_rows), made.steps))


def kl_and_tv(found, name):
    return found[guarantee._KL.format(name)], found[guarantee._TV.format(name)]


def test_enough_equal_steps_hold_every_bound():
    eps, gamma = 0.4, 1.0
    made = gaussian_flow(2, (gamma,) * 16, eps=eps)
    assert len(made.flow) >= blocks_needed(1.1 * made.w2(0), gamma, 1.0, eps)
    found = checked(made)
    for name in NAMES:
        by_kl, by_tv = kl_and_tv(found, name)
        assert (by_kl.verdict, by_tv.verdict) == ("holds", "holds")
        assert by_kl.kind == by_tv.kind == "plug-in"
        assert by_kl.interval[0] <= made.kl(16) <= by_kl.bound
        assert by_tv.bound == pytest.approx(math.sqrt(by_kl.bound / 2))
        assert by_kl.measured == pytest.approx(made.kl(16), abs=0.03)  # g is the law's own form
    assert kl_and_tv(found, guarantee._COROLLARY)[0].bound == pytest.approx(generation_kl(gamma, 1.0, eps))


def test_the_bounds_are_those_of_unequal_steps():
    gammas, errors = [0.5, 1.0, 3.0], [0.2] * 3
    made = gaussian_flow(2, gammas, eps=0.2)
    found = checked(made)
    by_kl = kl_and_tv(found, guarantee._UNEQUAL)[0]
    start = float(by_kl.assumption.split("at most ")[1].split(",")[0])
    assert made.w2(0) < start < 1.1 * made.w2(0)
    assert by_kl.bound == pytest.approx(forward_kl(start, gammas, errors, 1.0), rel=1e-3)
    sharper = sharp_last_step_kl(sharp_w2(start, gammas[:2], errors[:2], 1.0), 3.0, 1.0, 0.2)
    assert kl_and_tv(found, guarantee._SHARPER)[0].bound == pytest.approx(sharper, rel=1e-3)


@pytest.mark.parametrize(
    ("gammas", "eps", "word"),
    [
        ((1.0,) * 3, 0.1, "3 blocks, of"),
        ((2.5,) * 16, 0.3, "above 2"),
        ((0.5, 1.0, 1.0), 0.3, "one finite size"),
        ((1.0,) * 3, 0.0, "eps is 0"),
    ],
)
def test_the_corollary_is_undecided_where_a_hypothesis_is_not_met(gammas, eps, word):
    found = checked(gaussian_flow(1, gammas, eps=eps), n_rows=300)
    for claim in kl_and_tv(found, guarantee._COROLLARY):
        assert claim.verdict == "undecided"
        assert word in claim.assumption
        assert claim.remedy
    # the other forms ask for none of it
    assert kl_and_tv(found, guarantee._SHARPER)[0].verdict == "holds"


def test_a_flow_that_ends_in_a_free_step_is_bounded_before_it_and_nowhere_else():
    """A plug-in eps_N of a free step that sees nothing would make a bound of 0 on any KL."""
    made = gaussian_flow(2, (0.5, 1.0, math.inf), eps=0.3)
    steps = [StepError(0.5, 0.3), StepError(1.0, 0.3), StepError(math.inf, 0.0)]
    first, *found = guarantee.claims(made.evidence(), steps)
    assert first.verdict == "undecided"
    assert "free step" in first.assumption
    assert [claim.claim for claim in found] == [
        guarantee._KL_BEFORE.format(name) for name in (guarantee._UNEQUAL, guarantee._SHARPER)
    ]
    for claim in found:
        assert (claim.verdict, claim.block) == ("holds", 2)
        assert claim.interval[0] <= made.kl(2) <= claim.bound
        assert claim.measured == pytest.approx(made.kl(2), abs=0.05)
        # the free step takes KL(p_2‖q) - KL(p_3‖q) away, which the bound on KL(p_3‖q) does without
        assert claim.says[0].high == pytest.approx(claim.bound - made.kl(2) + made.kl(3), abs=0.1)


def test_steps_after_a_free_one_start_from_where_it_left_the_rows():
    made = gaussian_flow(2, (math.inf, 0.5, 1.0), eps=0.3)
    by_kl = kl_and_tv(checked(made), guarantee._SHARPER)[0]
    assert "W2(p_1, q) at most" in by_kl.assumption
    start = float(by_kl.assumption.split("at most ")[1].split(",")[0])
    bound = sharp_last_step_kl(sharp_w2(start, [0.5], [0.3], 1.0), 1.0, 1.0, 0.3)
    assert by_kl.bound == pytest.approx(bound, rel=1e-3)


def test_of_free_steps_alone_the_theorem_says_nothing():
    made = gaussian_flow(1, (math.inf,))
    (claim,) = guarantee.claims(made.evidence(300), made.steps)
    assert (claim.verdict, claim.bound) == ("undecided", None)
    assert "every step is free" in claim.assumption


def test_residuals_that_are_given_too_small_are_found_out():
    """Steps that stop at |m| = 1.5, where the KL is 1.125, and say that they are exact."""
    made = gaussian_flow(1, (1.0,) * 8, eps=1.5)
    found = named(guarantee.claims(made.evidence(), [StepError(1.0, 0.01)] * 8))
    for name in (guarantee._UNEQUAL, guarantee._SHARPER):
        by_kl, by_tv = kl_and_tv(found, name)
        assert (by_kl.verdict, by_tv.verdict) == ("fails", "fails")
        assert "eps_n" in by_kl.remedy
    assert kl_and_tv(checked(made), guarantee._SHARPER)[0].verdict == "holds"


def test_a_bound_that_says_nothing_of_the_total_variation_is_undecided():
    by_kl, by_tv = kl_and_tv(checked(gaussian_flow(2, (0.1,), eps=1.0)), guarantee._UNEQUAL)
    assert by_kl.bound > 2
    assert (by_kl.verdict, by_tv.verdict, by_tv.bound) == ("holds", "undecided", 1.0)


def test_a_residual_that_is_not_known_decides_nothing():
    for gammas, number in (((0.5, math.inf), 0), ((0.5, 0.5), 0), ((0.5, 0.5), 1)):
        made = gaussian_flow(2, gammas)
        steps = [StepError(gamma, 0.1) for gamma in gammas]
        steps[number] = StepError(gammas[number], math.nan)
        found = guarantee.claims(made.evidence(300), steps)
        assert {claim.verdict for claim in found} == {"undecided"}
        assert any(word in found[-1].assumption for word in ("not known", "free step"))
        assert all(claim.bound is None and claim.remedy for claim in found)


class Flat(Law):
    """A base law of which no lambda is known."""

    dim = 1
    lam = None
    log_normaliser = 0.0

    def potential(self, x):
        return x.abs().sum(-1)

    def sample(self, n, generator):
        raise AssertionError("not asked for")


def test_what_cannot_be_said():
    made = gaussian_flow(1, (1.0,))
    rows = made.evidence(200).held_out
    for evidence, word in (
        (Evidence(Flow(Flat(), list(made.flow)), rows), "strongly convex"),
        (Evidence(made.flow, None), "held-out rows"),
        (Evidence(Flow(StandardNormal(1)), rows), "no blocks"),
        (Evidence(made.flow, Particles(torch.full((200, 1), math.inf).double())), "not finite"),
    ):
        (claim,) = guarantee.claims(evidence, plug_in_errors(evidence.flow, []))
        assert claim.verdict == "undecided"
        assert word in claim.assumption
        assert claim.remedy

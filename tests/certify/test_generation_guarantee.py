"""The guarantees on the samples, on flows of exact Gaussian steps where KL(p_0‖q_0) is known."""

from __future__ import annotations

import math

import pytest
import torch

from jkoflow.bounds import blocks_needed, forward_kl, generation_kl, sharp_last_step_kl, sharp_w2
from jkoflow.certify import generation_guarantee as guarantee
from jkoflow.certify.evidence import Evidence
from jkoflow.certify.step_errors import StepError
from jkoflow.flow import Flow
from jkoflow.laws import Law, StandardNormal
from jkoflow.particles import Particles
from oracles.gaussian_flows import gaussian_flow

NAMES = (guarantee._COROLLARY, guarantee._UNEQUAL, guarantee._SHARPER)


def named(found):
    return {claim.claim: claim for claim in found}


def checked(made, *, n_rows: int = 3000):
    return named(guarantee.claims(made.evidence(n_rows), residuals=made.residuals))


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
        ((math.inf,), 0.3, "one finite size"),
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


def test_a_free_last_step_forgets_what_was_before():
    made = gaussian_flow(2, (0.5, math.inf))
    steps = [StepError(0.5, 9.0), StepError(math.inf, 0.3)]
    found = named(guarantee.claims(made.evidence(), residuals=lambda _: steps))
    assert kl_and_tv(found, guarantee._UNEQUAL)[0].bound == pytest.approx(0.09)
    assert kl_and_tv(found, guarantee._SHARPER)[0].bound == pytest.approx(0.045)


def test_residuals_that_are_given_too_small_are_found_out():
    """Steps that stop at |m| = 1.5, where the KL is 1.125, and say that they are exact."""
    made = gaussian_flow(1, (1.0,) * 8, eps=1.5)
    found = named(guarantee.claims(made.evidence(), residuals=lambda _: [StepError(1.0, 0.01)] * 8))
    for name in (guarantee._UNEQUAL, guarantee._SHARPER):
        by_kl, by_tv = kl_and_tv(found, name)
        assert (by_kl.verdict, by_tv.verdict) == ("fails", "fails")
        assert "eps_n" in by_kl.remedy
    assert kl_and_tv(checked(made), guarantee._SHARPER)[0].verdict == "holds"


def test_a_plug_in_from_below_refutes_nothing():
    """Blocks that learned nothing: by the model's own score each is an exact step."""
    made = gaussian_flow(1, (1e-6,) * 8)
    for block in made.flow:
        block.gamma = 2.0
    found = named(guarantee.claims(made.evidence()))
    for name in (guarantee._UNEQUAL, guarantee._SHARPER):
        by_kl, by_tv = kl_and_tv(found, name)
        assert by_kl.interval[0] > by_kl.bound
        assert (by_kl.verdict, by_tv.verdict) == ("undecided", "undecided")
        assert "too small" in by_kl.assumption
        assert "eps_n" in by_kl.remedy


def test_a_bound_that_says_nothing_of_the_total_variation_is_undecided():
    by_kl, by_tv = kl_and_tv(checked(gaussian_flow(2, (0.1,), eps=1.0)), guarantee._UNEQUAL)
    assert by_kl.bound > 2
    assert (by_kl.verdict, by_tv.verdict, by_tv.bound) == ("holds", "undecided", 1.0)


def test_a_residual_that_is_not_known_decides_nothing():
    for gammas, number in (((0.5, math.inf), 1), ((0.5, 0.5), 0)):
        made = gaussian_flow(2, gammas)
        steps = [StepError(gamma, 0.1) for gamma in gammas]
        steps[number] = StepError(gammas[number], math.nan)
        found = guarantee.claims(made.evidence(300), residuals=lambda _, told=tuple(steps): told)
        assert {claim.verdict for claim in found} == {"undecided"}
        assert "not known" in found[-1].assumption
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
        (claim,) = guarantee.claims(evidence)
        assert claim.verdict == "undecided"
        assert word in claim.assumption
        assert claim.remedy

"""No two statements of a certificate contradict each other: what a stronger one refutes is undecided."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from jkoflow.certify.claim import Certificates, Claim, KLBracket, Says
from jkoflow.certify.consistency import reconcile, speaking_of_kl
from oracles.certified import CERTIFIED, contradictions
from oracles.quick_critics import use_quick_critics
from oracles.quick_training import use_quick_recipe

BRACKET = KLBracket(lower=2.24, estimate=2.5, upper=3.0)
BOUND = Claim("the theorem's", "4.3", "plug-in", "holds", 0.1, bound=0.2, says=(Says("kl", high=0.2),))
TOLD = Claim("dissipated", "de Bruijn", "plug-in", "told", 2.6, says=(Says("kl", 2.4, 2.8),))


def alone(claim: Claim, bracket: KLBracket = BRACKET) -> Claim:
    (found,) = reconcile(bracket, [claim])[1]
    return found


def test_a_bound_below_the_proven_lower_end_is_undecided_with_the_reason() -> None:
    found = alone(BOUND)
    assert found.verdict == "undecided"
    assert "plug-in is too small" in found.assumption
    assert "0.2 nats" in found.assumption
    assert "2.24" in found.assumption
    assert found.remedy
    assert alone(replace(BOUND, bound=2.3, says=(Says("kl", high=2.3),))).verdict == "holds"


def test_the_total_variation_goes_with_the_divergence_it_is_made_of() -> None:
    tv = Claim("TV", "", "plug-in", "holds", bound=0.3, says=(Says("kl", high=0.18), Says("tv", high=0.3)))
    assert alone(tv).verdict == "undecided"
    assert alone(tv, KLBracket(lower=0.1)).verdict == "holds"


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(2.4, 2.8, "told"), (0.0, 2.0, "undecided"), (3.5, 4.0, "undecided")]
)
def test_a_number_that_is_told_lies_between_the_ends(low: float, high: float, verdict: str) -> None:
    assert alone(replace(TOLD, says=(Says("kl", low, high),))).verdict == verdict


def test_a_number_without_a_bound_carries_no_verdict() -> None:
    number = Claim("about", "", "plug-in", "holds", 0.3)
    assert alone(number).verdict == "told"
    assert alone(replace(number, bound=0.4)).verdict == "holds"
    assert alone(replace(number, kind="lower")).verdict == "holds"


@pytest.mark.parametrize(
    "impossible",
    [
        Claim("a", "", "plug-in", "told", -573.0, says=(Says("kl", -600.0, -550.0),)),
        Claim("a", "", "plug-in", "told", -1.0, says=(Says("kl", -3.0, 2.9),)),
        Claim("a", "", "plug-in", "told", math.nan),
        Claim("a", "", "plug-in", "holds", 1.0, bound=math.inf),
        Claim("a", "", "plug-in", "holds", 1.0, bound=0.1, says=(Says("kl", high=-0.2),)),
        Claim("a", "", "upper-under-assumption", "holds", 1.0, says=(Says("tv", low=1.2),)),
    ],
)
def test_what_cannot_be_is_undecided(impossible: Claim) -> None:
    found = alone(impossible, KLBracket())
    assert found.verdict == "undecided"
    assert found.assumption
    assert found.remedy


def test_a_lower_end_that_proves_nothing_does_not_hold() -> None:
    """A mean of -0.03 nats, "KL is at least this", would be an impossible value with a tick."""
    claim = Claim("at least", "", "lower", "holds", -0.03, interval=(0.0, math.inf))
    found = alone(*speaking_of_kl([claim]), KLBracket(lower=0.0))
    assert found.verdict == "undecided"
    assert "nothing above 0" in found.assumption
    assert alone(replace(claim, says=(Says("kl", low=0.1),)), KLBracket(lower=0.1)).verdict == "holds"


def test_a_proof_above_the_upper_end_takes_it_away_and_the_claim_on_it() -> None:
    proved = Claim("at least", "", "lower", "holds", 4.0, says=(Says("kl", low=3.8),))
    upper = Claim("at most", "", "upper-under-assumption", "holds", 2.9, says=(Says("kl", high=3.0),))
    bracket, claims = reconcile(BRACKET, [proved, upper])
    assert [claim.verdict for claim in claims] == ["holds", "undecided"]
    assert (bracket.lower, bracket.upper) == (2.24, math.inf)


def test_of_two_plug_ins_that_contradict_each_other_neither_stands() -> None:
    other = replace(TOLD, claim="nearest neighbours", says=(Says("kl", 2.85, 2.9),))
    bracket, claims = reconcile(BRACKET, [TOLD, other])
    assert bracket == BRACKET
    assert [claim.verdict for claim in claims] == ["undecided", "undecided"]
    assert "nearest neighbours" in claims[0].assumption


def test_verdicts_that_say_nothing_are_left_as_they_are() -> None:
    claims = tuple(replace(BOUND, verdict=verdict) for verdict in ("fails", "undecided"))
    assert reconcile(BRACKET, claims)[1] == claims


def test_an_estimate_outside_the_ends_is_left_out() -> None:
    assert reconcile(KLBracket(0.1, 0.05, 0.3), [])[0].estimate is None
    assert reconcile(KLBracket(0.1, 0.2, 0.3), [])[0].estimate == 0.2
    assert reconcile(KLBracket(), [])[0] == KLBracket()


def test_claims_on_the_ends_say_what_their_intervals_are() -> None:
    found = speaking_of_kl([Claim("a", "", "lower", "holds", 0.1, interval=(-0.1, math.inf)), BOUND])
    assert [claim.says for claim in found] == [(Says("kl"),), BOUND.says]


def test_what_the_oracle_of_contradictions_looks_for_is_found() -> None:
    """The four that were on one page: a bound of 0, twice, and a KL of -573, beside 2.24 nats, proven."""
    zero = Claim("KL(p_0‖q_0) is at most the bound of Theorem 4.3", "", "plug-in", "holds", 2.0, bound=0.0)
    tv = Claim("TV(p_0, q_0) is at most the bound of Theorem 4.3", "", "plug-in", "holds", bound=0.0)
    read = Claim("KL(p_0‖q_0) by …", "", "plug-in", "holds", -573.0, interval=(-600.0, -550.0))
    assert len(contradictions(Certificates(KLBracket(lower=2.24), (zero, tv, read)))) >= 3
    assert contradictions(Certificates(KLBracket(lower=2.24), ())) == []


# ── certified models ──


@pytest.fixture
def _quick_models(monkeypatch: pytest.MonkeyPatch) -> None:
    use_quick_critics(monkeypatch)
    use_quick_recipe(monkeypatch)


def test_there_are_twenty() -> None:
    assert len({case.name for case in CERTIFIED}) >= 20


@pytest.mark.usefixtures("_quick_models")
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.name, marks=() if case.quick else pytest.mark.slow) for case in CERTIFIED],
)
def test_no_two_statements_about_a_model_contradict_each_other(case: object) -> None:
    found = case.certified()  # type: ignore[attr-defined]
    assert contradictions(found) == []
    assert all(claim.reader for claim in found.claims)
    assert not [claim.assumption for claim in found.claims if claim.claim.endswith("could be computed")]
    assert Certificates.from_dict(found.to_dict()) == found

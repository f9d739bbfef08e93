"""Makes the statements of one certificate agree: what a stronger one refutes is undecided, with the reason.

    a statement        low <= quantity <= high, of the bracket's ends and of every claim that holds or is told
    two contradict     where their ranges of one quantity do not meet
    strength           proved (lower ends, theorems) > an upper end under an assumption > a plug-in

What a stronger statement contradicts is undecided, and so are both of two that contradict each other and are
equally strong. An impossible value (a KL below 0, a number that is none) is contradicted by arithmetic, a
bound that is infinite says nothing, and a number without a bound is told. Source: ours; docs/theory.md,
"Certificates".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from jkoflow.certify.claim import Claim, Kind, KLBracket, Quantity, Says, is_finite

__all__ = ["reconcile", "speaking_of_kl"]

_STRENGTH: dict[Kind, int] = {"lower": 0, "theorem": 0, "upper-under-assumption": 1, "plug-in": 2}
"""Of two statements that contradict each other the one with the smaller number stands."""

_STRONGEST = -1
"""Of the bracket's lower end, which everything else is held against."""

_LARGEST: dict[Quantity, float] = {"kl": math.inf, "tv": 1.0}
_NAMES: dict[Quantity, str] = {"kl": "KL(p_0‖q_0)", "tv": "TV(p_0, q_0)"}
_UNITS: dict[Quantity, str] = {"kl": " nats", "tv": ""}
_LOWER_END, _UPPER_END = "the proven lower end of the bracket", "the upper end of the bracket"
_SEE = "go by the bracket of the KL: of two statements that contradict each other it keeps the one proved"


@dataclass(frozen=True)
class _Statement:
    """What the bracket or a claim says, how strongly, and who says it: an end of the bracket has no `claim`.

    Arguments:
        says: The range.
        strength: As in `_STRENGTH`.
        name: What to call it where it refutes another.
        claim: Its number among the claims.
    """

    says: Says
    strength: int
    name: str
    claim: int | None = None

    def contradicts(self, other: _Statement) -> bool:
        one, two = self.says, other.says
        return one.quantity == two.quantity and (one.high < two.low or two.high < one.low)


def reconcile(bracket: KLBracket, claims: Sequence[Claim]) -> tuple[KLBracket, tuple[Claim, ...]]:
    """The bracket and the claims, no two of which contradict each other.

    Arguments:
        bracket: The ends of the KL as they were found. Its lower end always stays; an upper end that is
            refuted becomes infinite, and an estimate outside the ends is left out.
        claims: All claims, each with what it `says`.
    """
    possible = [_possible(claim) for claim in claims]
    standing, refuted = _standing(_statements(bracket, possible))
    told = list(possible)
    for statement, against in refuted:
        if statement.claim is not None and told[statement.claim].stands:
            told[statement.claim] = _undecided(told[statement.claim], _reason(statement, against))
    kept = {statement.name for statement in standing if statement.claim is None}
    return _agreeing(bracket, keeps_upper=_UPPER_END in kept), tuple(told)


def speaking_of_kl(claims: Iterable[Claim]) -> list[Claim]:
    """Claims on the bracket's ends, which say of the KL what their intervals are."""
    return [
        claim
        if claim.says or claim.interval is None
        else replace(claim, says=(Says("kl", max(claim.interval[0], 0.0), claim.interval[1]),))
        for claim in claims
    ]


# ── a claim by itself ──


def _possible(claim: Claim) -> Claim:
    """The claim, told where its number has no bound, undecided where it cannot be or says nothing."""
    if not claim.stands:
        return claim
    if claim.measured is not None and not math.isfinite(claim.measured):
        return _undecided(claim, "what was measured is no finite number")
    if claim.bound is not None and not math.isfinite(claim.bound):
        return _undecided(claim, "an infinite bound says nothing")
    if claim.kind == "lower" and claim.says and all(says == Says(says.quantity) for says in claim.says):
        return _undecided(claim, "nothing above 0 could be proved")
    if claim.kind != "plug-in":
        return _undecided(claim, "no such value is possible") if _is_impossible(claim) else claim
    if claim.bound is None and claim.says and claim.measured is not None and claim.measured < 0:
        return _undecided(
            claim, f"it reads {claim.measured:.3g}, which no {_NAMES[claim.says[0].quantity]} is"
        )
    if _is_impossible(claim):
        return _undecided(claim, "what follows from it is below 0: the plug-in is too small")
    return replace(claim, verdict="told") if claim.bound is None else claim


def _is_impossible(claim: Claim) -> bool:
    """Whether a range that it says is empty or has no value that its quantity can have; never for NaN."""
    return any(says.high < max(says.low, 0.0) or says.low > _LARGEST[says.quantity] for says in claim.says)


def _undecided(claim: Claim, reason: str) -> Claim:
    given = f"; {claim.assumption}" if claim.assumption else ""
    return replace(claim, verdict="undecided", assumption=f"{reason}{given}", remedy=claim.remedy or _SEE)


# ── against each other ──


def _statements(bracket: KLBracket, claims: Sequence[Claim]) -> list[_Statement]:
    ends = []
    if is_finite(bracket.lower):
        ends.append(_Statement(Says("kl", low=bracket.lower), _STRONGEST, _LOWER_END))
    if is_finite(bracket.upper):
        assumed = _STRENGTH["upper-under-assumption"]
        ends.append(_Statement(Says("kl", high=bracket.upper), assumed, _UPPER_END))
    return [
        *ends,
        *(
            _Statement(says, _STRENGTH[claim.kind], f"the claim “{claim.claim}”", number)
            for number, claim in enumerate(claims)
            if claim.stands
            for says in claim.says
        ),
    ]


def _standing(
    statements: Sequence[_Statement],
) -> tuple[list[_Statement], list[tuple[_Statement, _Statement]]]:
    """Statements that no stronger one and no equally strong one contradicts; the others, each with one."""
    standing, refuted = list[_Statement](), list[tuple[_Statement, _Statement]]()
    for strength in sorted({statement.strength for statement in statements}):
        left = []
        for statement in (each for each in statements if each.strength == strength):
            against = next((other for other in standing if statement.contradicts(other)), None)
            if against is None:
                left.append(statement)
            else:
                refuted.append((statement, against))
        clashes = [(one, two) for one, two in combinations(left, 2) if one.contradicts(two)]
        refuted += [pair for one, two in clashes for pair in ((one, two), (two, one))]
        fallen = {id(statement) for pair in clashes for statement in pair}
        standing += [statement for statement in left if id(statement) not in fallen]
    return standing, refuted


def _reason(statement: _Statement, against: _Statement) -> str:
    quantity = statement.says.quantity
    name, unit = _NAMES[quantity], _UNITS[quantity]
    if statement.says.high < against.says.low:
        small = "the plug-in is too small: " if statement.strength == _STRENGTH["plug-in"] else ""
        return (
            f"{small}by it {name} would be at most {statement.says.high:.3g}{unit}, and {against.name} is "
            f"{against.says.low:.3g}"
        )
    return (
        f"by it {name} would be at least {statement.says.low:.3g}{unit}, and {against.name} is "
        f"{against.says.high:.3g}"
    )


def _agreeing(bracket: KLBracket, *, keeps_upper: bool) -> KLBracket:
    """The bracket with what stands of it."""
    if is_finite(bracket.upper) and not keeps_upper:
        bracket = replace(bracket, upper=math.inf)
    low = -math.inf if bracket.lower is None else bracket.lower
    high = math.inf if bracket.upper is None else bracket.upper
    outside = bracket.estimate is not None and not low <= bracket.estimate <= high
    return replace(bracket, estimate=None) if outside else bracket

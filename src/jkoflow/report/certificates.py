"""The page's answer to "how far is this model from the data, and how do we know?", as text for the template.

at least  <=  KL(data‖model)  <=  at most         each end with its kind and its level
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jkoflow.certify.answer import level_of
from jkoflow.certify.claim import Certificates, Claim, Kind, KLBracket, Verdict, is_finite, verdict_counts

__all__ = ["ClaimGroup", "ClaimRow", "End", "bracket_ends", "claim_groups"]

_MARKS: dict[Verdict, str] = {"holds": "✓", "fails": "✗", "undecided": "?", "told": "·"}
_KINDS: dict[Kind, str] = {
    "theorem": "theorem's bound",
    "plug-in": "plug-in estimate",
    "lower": "lower bound",
    "upper-under-assumption": "upper bound, under the assumption",
}
_MISSING = "–"


@dataclass(frozen=True)
class End:
    """One number of the bracket: what it is called, the number, what kind of number it is."""

    label: str
    value: str
    detail: str


@dataclass(frozen=True)
class ClaimRow:
    """A claim as text, `number` that of its block; `blocks` are rows of single blocks, folded under this."""

    verdict: str
    mark: str
    claim: str
    measured: str
    interval: str
    bound: str
    unit: str
    kind: str
    rows: str
    assumption: str
    remedy: str
    number: int | None = None
    blocks: tuple[ClaimRow, ...] = ()


@dataclass(frozen=True)
class ClaimGroup:
    """Claims of one source."""

    source: str
    rows: tuple[ClaimRow, ...]


def bracket_ends(kl: KLBracket) -> list[End]:
    """Lower end, estimate and upper end of KL(data‖model), each with its kind."""
    level = level_of(kl)
    at_least = kl.lower if is_finite(kl.lower) else None
    lower = f"a proven lower bound, {level}" if at_least is not None else "could not be computed"
    if at_least == 0:
        lower = f"no bound above 0 could be proved, {level}"
    return [
        End("At least", _number(at_least), lower),
        End("About", _end(kl.estimate), "a plug-in estimate" if is_finite(kl.estimate) else "no estimate"),
        End(
            "At most",
            _end(kl.upper),
            f"under the assumption below, {level}" if is_finite(kl.upper) else "no upper bound is known",
        ),
    ]


def claim_groups(certificates: Certificates) -> list[ClaimGroup]:
    """The claims by source; those of single blocks folded into one row for each thing that is claimed."""
    return [ClaimGroup(source, _folded(claims)) for source, claims in certificates.by_source.items()]


def _folded(claims: Sequence[Claim]) -> tuple[ClaimRow, ...]:
    rows = []
    for claim in claims:
        same = [other for other in claims if other.block is not None and other.claim == claim.claim]
        if claim.block is None or len(same) == 1:
            rows.append(_row(claim, claim.claim if claim.block is None else _of_block(claim)))
        elif claim is same[0]:
            rows.append(_over_blocks(same))
    return tuple(rows)


def _over_blocks(claims: Sequence[Claim]) -> ClaimRow:
    """One row for a claim about each block: the worst verdict, and the range of what was measured."""
    verdicts: tuple[Verdict, ...] = ("fails", "undecided", "holds", "told")
    worst = next(verdict for verdict in verdicts if any(claim.verdict == verdict for claim in claims))
    first = claims[0]
    return ClaimRow(
        verdict=worst,
        mark=_MARKS[worst],
        claim=f"{first.claim}: {len(claims)} blocks, {verdict_counts(claims)}",
        measured=_range([claim.measured for claim in claims]),
        interval=_MISSING,
        bound=_range([claim.bound for claim in claims]),
        unit=first.unit,
        kind=", ".join(dict.fromkeys(_KINDS[claim.kind] for claim in claims)),
        rows=f"{max(claim.rows for claim in claims):,}",
        assumption=_shared([claim.assumption for claim in claims]),
        remedy=_shared([claim.remedy for claim in claims if claim.verdict == worst]),
        blocks=tuple(_row(claim, _of_block(claim)) for claim in claims),
    )


def _row(claim: Claim, words: str) -> ClaimRow:
    interval = _MISSING
    if claim.interval is not None:
        level = "" if claim.level is None else f", {100 * claim.level:.3g}\N{NO-BREAK SPACE}%"
        interval = f"{_number(claim.interval[0])} to {_number(claim.interval[1])}{level}"
    return ClaimRow(
        verdict=claim.verdict,
        mark=_MARKS[claim.verdict],
        claim=words,
        measured=_number(claim.measured),
        interval=interval,
        bound=_number(claim.bound),
        unit=claim.unit,
        kind=_KINDS[claim.kind],
        rows=f"{claim.rows:,}" if claim.rows else _MISSING,
        assumption=claim.assumption,
        remedy=claim.remedy,
        number=claim.block,
    )


def _of_block(claim: Claim) -> str:
    return f"{claim.claim} (block {claim.block})"


def _shared(texts: Sequence[str]) -> str:
    """What all say, or nothing."""
    return texts[0] if len(set(texts)) == 1 else ""


def _range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    ends = [_number(min(known)), _number(max(known))] if known else [_MISSING]
    return " to ".join(dict.fromkeys(ends))


def _end(value: float | None) -> str:
    return _number(value if is_finite(value) else None)


def _number(value: float | None) -> str:
    """Three significant digits, with a true minus sign."""
    if value is None or math.isnan(value):
        return _MISSING
    text = "∞" if math.isinf(value) else f"{abs(value):.3g}"
    return f"{'−' * (value < 0)}{text}"

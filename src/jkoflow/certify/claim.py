"""What a certificate says: claims, each a number with its kind and a verdict, and the bracket of the KL.

    holds        the number is on the right side of its bound, interval included
    fails        it is on the wrong side, interval included
    undecided    the interval straddles the bound, or what the claim rests on is not given

Source: the certificate contract of the architecture.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from jkoflow.storage import FORMAT, encode_json

__all__ = ["Certificates", "Claim", "Interval", "KLBracket", "Kind", "Verdict", "undecided", "verdict_below"]

Kind = Literal["theorem", "plug-in", "lower", "upper-under-assumption"]
"""A theorem's bound; an estimate put in its place; a lower bound; an upper one under a named assumption."""

Verdict = Literal["holds", "fails", "undecided"]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Claim:
    """One claim about a model.

    Arguments:
        claim: What is claimed, a sentence.
        source: Where it comes from, down to the equation.
        kind: See `Kind`.
        verdict: See the module.
        measured: The number; None where it could not be had.
        interval: Where it lies at `level`; None where it is exact or not known.
        level: Confidence of the interval, between 0 and 1.
        bound: What `measured` is held against; None for a number that is only told.
        unit: Of measured and bound.
        space: `"data"`, `"standardised"` or `"latent"`.
        assumption: What the claim rests on beyond the samples; "" for nothing.
        rows: How many rows were looked at.
        block: Number of the block it is about; None for the whole flow.
        remedy: What to change where it does not hold; "" where nothing is to be.
    """

    claim: str
    source: str
    kind: Kind
    verdict: Verdict
    measured: float | None = None
    interval: Interval | None = None
    level: float | None = None
    bound: float | None = None
    unit: str = ""
    space: Literal["data", "standardised", "latent"] = "standardised"
    assumption: str = ""
    rows: int = 0
    block: int | None = None
    remedy: str = ""


@dataclass(frozen=True)
class KLBracket:
    """KL(p_0‖q_0) in nats, between two ends.

    Arguments:
        lower: Below which it lies, at `level`; 0 where nothing could be proved, None where nothing was tried.
        estimate: A plug-in estimate.
        upper: Above which it does not lie, under `assumption`; infinite or None where there is none.
        level: Confidence of each end.
        assumption: What the upper end rests on.
    """

    lower: float | None = None
    estimate: float | None = None
    upper: float | None = None
    level: float = 0.95
    assumption: str = ""


@dataclass(frozen=True)
class Certificates:
    """What is known of a model: the bracket of its KL, and the claims.

    Arguments:
        kl: The bracket.
        claims: In the order of the report.
        notes: What a reader should know about the rows that it was made from, one line each.
    """

    kl: KLBracket
    claims: tuple[Claim, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def failed(self) -> tuple[Claim, ...]:
        """The claims that fail."""
        return tuple(claim for claim in self.claims if claim.verdict == "fails")

    def to_dict(self) -> dict[str, Any]:
        """Plain values: `format`, `kl`, `claims`, `notes`."""
        return {
            "format": FORMAT,
            "kl": asdict(self.kl),
            "claims": [asdict(claim) for claim in self.claims],
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """The text of `certificates.json`; what is infinite or not a number is null there."""
        return encode_json(self.to_dict(), indent=2).decode()


def verdict_below(interval: Interval, bound: float) -> Verdict:
    """Whether what lies in `interval` is at most `bound`; undecided where the interval straddles it."""
    low, high = interval
    if not (math.isfinite(low) and math.isfinite(high)):
        return "undecided"
    return "holds" if high <= bound else "fails" if low > bound else "undecided"


def undecided(claim: str, source: str, kind: Kind, *, why: str, remedy: str, **known: Any) -> Claim:
    """A claim that could not be decided, with the reason where the assumption stands."""
    return Claim(claim, source, kind, "undecided", assumption=why, remedy=remedy, **known)

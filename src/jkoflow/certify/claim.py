"""What a certificate says: claims, each a number with its kind and a verdict, and the bracket of the KL.

    holds        the number is on the right side of its bound, interval included
    fails        it is on the wrong side, interval included
    undecided    the interval straddles the bound, or what the claim rests on is not given
    told         a number without a bound: it carries no verdict

Source: ours; docs/theory.md, "Certificates".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeGuard, get_args

from jkoflow.storage import FORMAT, RESTORE, encode_json, reading_entries, require_format

__all__ = [
    "INTEGRITY_READER",
    "KL_READER",
    "SAME_LAW_READER",
    "Certificates",
    "Claim",
    "Interval",
    "KLBracket",
    "Kind",
    "Quantity",
    "Says",
    "Verdict",
    "is_finite",
    "undecided",
    "verdict_below",
    "verdict_counts",
]

Kind = Literal["theorem", "plug-in", "lower", "upper-under-assumption"]
"""A theorem's bound; an estimate put in its place; a lower bound; an upper one under a named assumption."""

Verdict = Literal["holds", "fails", "undecided", "told"]
Quantity = Literal["kl", "tv"]
"""What several claims speak of: KL(p_0‖q_0) in nats, the total variation of p_0 and q_0."""

KL_READER, INTEGRITY_READER, SAME_LAW_READER = "KL(p_0‖q_0)", "integrity", "law of the rows"
"""Names of the readers whose claims the summary of a certificate looks at first (`Claim.reader`)."""

Space = Literal["data", "standardised", "latent"]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Says:
    """What a claim that holds or is told says of a quantity of which others speak: low <= it <= high.

    It may follow from what the claim says, as a bound on the KL does from one on the KL before a last step.

    Arguments:
        quantity: Which one.
        low: It is at least this.
        high: It is at most this.
    """

    quantity: Quantity
    low: float = 0.0
    high: float = math.inf


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
        unit: Unit of `measured` and `bound`.
        space: `"data"`, `"standardised"` or `"latent"`.
        assumption: What the claim rests on beyond the samples; "" for nothing.
        rows: How many rows were looked at.
        block: Number of the block it is about; None for the whole flow.
        remedy: What to change where it does not hold; "" where nothing is to be.
        says: What follows from it for quantities that other claims speak of, while it holds or is told.
        reader: Which part of the certificate it is of, such as `INTEGRITY_READER`; "" where not known.
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
    space: Space = "standardised"
    assumption: str = ""
    rows: int = 0
    block: int | None = None
    remedy: str = ""
    says: tuple[Says, ...] = ()
    reader: str = ""

    @property
    def stands(self) -> bool:
        """Whether it says something: it holds, or is a number that is told."""
        return self.verdict in ("holds", "told")


@dataclass(frozen=True)
class KLBracket:
    """KL(p_0‖q_0) in nats, between two ends.

    Arguments:
        lower: The KL is at least this, at `level`; 0 where nothing could be proved, None where nothing was
            tried.
        estimate: A plug-in estimate.
        upper: The KL is at most this, at `level`, under `assumption`; infinite or None where there is no such
            bound.
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
        claims: The claims, in the order of the report.
        notes: What a reader should know about the rows that it was made from, one line each.
    """

    kl: KLBracket
    claims: tuple[Claim, ...]
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        """The first lines: one sentence, the bracket with its scale, what to do next; then the verdicts."""
        from jkoflow.certify.told import summary_lines

        return "\n".join(summary_lines(self))

    def _repr_html_(self) -> str:
        """The same for a notebook, the sentence in its colour."""
        from jkoflow.certify.told import summary_html

        return summary_html(self)

    @property
    def failed(self) -> tuple[Claim, ...]:
        """The claims that fail."""
        return tuple(claim for claim in self.claims if claim.verdict == "fails")

    @property
    def by_source(self) -> dict[str, tuple[Claim, ...]]:
        """The claims by where they come from, in their order."""
        sources = dict.fromkeys(claim.source for claim in self.claims)
        return {source: tuple(claim for claim in self.claims if claim.source == source) for source in sources}

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

    @classmethod
    def from_dict(
        cls, record: Mapping[str, Any], *, path: str = "certificates.json", remedy: str = RESTORE
    ) -> Certificates:
        """Rebuild from what `to_dict` gives or the file holds, where null ends of an interval are infinite.

        Arguments:
            record: What `to_dict` returned, or JSON made of it.
            path: The file it came from, for the message.
            remedy: What the message tells the user to do about a damaged file.

        Raises:
            RunFolderError: The record is of a later format, or is damaged.
        """
        require_format(record.get("format"), path, remedy=remedy)
        with reading_entries(path, remedy=remedy):
            _require_keys(record, {"format", "kl", "claims", "notes"})
            if not all(isinstance(note, str) for note in record["notes"]):
                raise ValueError("a note is not text")
            claims = tuple(_claim_from(entry) for entry in record["claims"])
            return cls(_bracket_from(record["kl"]), claims, tuple(record["notes"]))


def is_finite(end: float | None) -> TypeGuard[float]:
    """Whether an end of the bracket says something."""
    return end is not None and math.isfinite(end)


def verdict_counts(claims: Sequence[Claim]) -> str:
    """Such as "3 hold, 1 undecided, 2 told"."""
    count = Counter[str](claim.verdict for claim in claims)
    words = {
        "holds": "holds" if count["holds"] == 1 else "hold",
        "fails": "fails" if count["fails"] == 1 else "fail",
        "undecided": "undecided",
        "told": "told",
    }
    return ", ".join(f"{count[verdict]} {word}" for verdict, word in words.items() if count[verdict])


def verdict_below(interval: Interval, bound: float) -> Verdict:
    """Whether what lies in `interval` is at most `bound`; undecided where the interval straddles it."""
    low, high = interval
    if not (math.isfinite(low) and math.isfinite(high)):
        return "undecided"
    return "holds" if high <= bound else "fails" if low > bound else "undecided"


def undecided(claim: str, source: str, kind: Kind, *, why: str, remedy: str, **known: Any) -> Claim:
    """A claim that could not be decided, with the reason where the assumption stands."""
    return Claim(claim, source, kind, "undecided", assumption=why, remedy=remedy, **known)


# ── reading back ──


def _bracket_from(entry: Any) -> KLBracket:
    _require_keys(entry, {field.name for field in fields(KLBracket)})
    ends = {name: _number(entry[name], name) for name in ("lower", "estimate", "upper")}
    level = _number(entry["level"], "level")
    if level is None or not isinstance(entry["assumption"], str):
        raise ValueError("kl without level or assumption")
    return KLBracket(**ends, level=level, assumption=entry["assumption"])


_ADDED = {"says", "reader"}
"""Keys of a claim that older certificates lack."""


def _claim_from(entry: Any) -> Claim:
    _require_keys(entry, {field.name for field in fields(Claim)}, added=_ADDED)
    for name in ("claim", "source", "unit", "assumption", "remedy", "reader"):
        if not isinstance(entry.get(name, ""), str):
            raise ValueError(f"{name} is not text")
    for name, words in (("kind", Kind), ("verdict", Verdict), ("space", Space)):
        if entry[name] not in get_args(words):
            raise ValueError(f"{name} {entry[name]!r}")
    for name in ("rows", "block"):
        count = entry[name]
        if (count is None and name == "rows") or isinstance(count, bool) or not isinstance(count, int | None):
            raise ValueError(f"{name} is not a whole number")
    numbers = {name: _number(entry[name], name) for name in ("measured", "level", "bound")}
    interval = _interval_from(entry["interval"])
    says = tuple(_says_from(each) for each in entry.get("says", ()))
    return Claim(**{**entry, **numbers, "interval": interval, "says": says})


def _says_from(entry: Any) -> Says:
    _require_keys(entry, {field.name for field in fields(Says)})
    if entry["quantity"] not in get_args(Quantity):
        raise ValueError(f"quantity {entry['quantity']!r}")
    ends = _interval_from((entry["low"], entry["high"]))
    assert ends is not None
    return Says(entry["quantity"], *ends)


def _interval_from(entry: Any) -> Interval | None:
    if entry is None:
        return None
    low, high = (_number(end, "interval") for end in entry)
    return (-math.inf if low is None else low, math.inf if high is None else high)


def _number(value: Any, name: str) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise ValueError(f"{name} is not a number")
    return None if value is None else float(value)


def _require_keys(entry: Any, keys: set[str], *, added: Collection[str] = ()) -> None:
    """Refuse what is no mapping of these keys, of which older records may lack those in `added`."""
    if not isinstance(entry, Mapping) or not keys.difference(added) <= set(entry) <= keys:
        found = sorted(map(str, entry)) if isinstance(entry, Mapping) else type(entry).__name__
        raise ValueError(f"expected keys {sorted(keys)}, got {found}")

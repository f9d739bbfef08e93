"""Verdicts and the record of certificates."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from jkoflow.certify.claim import Certificates, Claim, KLBracket, undecided, verdict_below
from jkoflow.errors import RunFolderError


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.1, 0.9), "holds"),
        ((0.1, 1.0), "holds"),
        ((0.9, 1.1), "undecided"),
        ((1.1, 1.2), "fails"),
        ((0.1, math.inf), "undecided"),
        ((math.nan, 0.5), "undecided"),
    ],
)
def test_verdict_takes_the_whole_interval(interval: tuple[float, float], verdict: str) -> None:
    assert verdict_below(interval, 1.0) == verdict


def test_record_has_the_fields_of_the_contract_and_no_infinities() -> None:
    claims = (
        Claim("a", "b", "theorem", "fails", measured=2.0, interval=(1.0, math.inf), bound=1.0, block=3),
        undecided("c", "d", "lower", why="no rows", remedy="give rows", unit="nats"),
    )
    certificates = Certificates(KLBracket(lower=0.1, level=0.95), claims, ("a note",))
    record = json.loads(certificates.to_json())
    assert set(record) == {"format", "kl", "claims", "notes"}
    assert set(record["kl"]) == {"lower", "estimate", "upper", "level", "assumption"}
    assert set(record["claims"][0]) == {
        "claim",
        "source",
        "kind",
        "measured",
        "interval",
        "level",
        "bound",
        "unit",
        "space",
        "assumption",
        "rows",
        "block",
        "verdict",
        "remedy",
    }
    assert record["claims"][0]["interval"] == [1.0, None]
    assert record["claims"][1]["assumption"] == "no rows"
    assert [claim.claim for claim in certificates.failed] == ["a"]


# ── reading back ──


def some_certificates() -> Certificates:
    claims = (
        Claim("a", "b", "theorem", "fails", measured=2.0, interval=(1.0, math.inf), bound=1.0, block=3),
        undecided("c", "d", "lower", why="no rows", remedy="give rows", unit="nats"),
        Claim("e", "b", "plug-in", "holds", interval=(-math.inf, 2.0), level=0.95, space="latent", rows=7),
    )
    return Certificates(KLBracket(lower=0.1, upper=0.5, assumption="rich"), claims, ("a note",))


def test_record_reads_back_as_what_was_written() -> None:
    found = some_certificates()
    assert Certificates.from_dict(json.loads(found.to_json())) == found
    assert Certificates.from_dict(found.to_dict()) == found


def test_claims_by_source_keep_their_order() -> None:
    grouped = some_certificates().by_source
    assert {source: [claim.claim for claim in claims] for source, claims in grouped.items()} == {
        "b": ["a", "e"],
        "d": ["c"],
    }


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda r: r.pop("notes"), "expected keys"),
        (lambda r: r.update(notes=[3]), "note"),
        (lambda r: r.update(claims=3), "of another kind"),
        (lambda r: r.update(format="jkoflow/2"), "another version"),
        (lambda r: r["kl"].update(lower="0.1"), "lower is not a number"),
        (lambda r: r["kl"].update(level=None), "level"),
        (lambda r: r["kl"].pop("upper"), "expected keys"),
        (lambda r: r["claims"][0].update(verdict="true"), "verdict 'true'"),
        (lambda r: r["claims"][0].update(kind="guess"), "kind 'guess'"),
        (lambda r: r["claims"][0].update(space="time"), "space 'time'"),
        (lambda r: r["claims"][0].update(rows=None), "rows"),
        (lambda r: r["claims"][0].update(block=1.5), "block"),
        (lambda r: r["claims"][0].update(measured=True), "measured is not a number"),
        (lambda r: r["claims"][0].update(interval=[1.0]), "unpack"),
        (lambda r: r["claims"][0].update(remedy=None), "remedy is not text"),
        (lambda r: r["claims"].append("x"), "got str"),
    ],
)
def test_damaged_record_is_refused(damage: Any, word: str) -> None:
    record = json.loads(some_certificates().to_json())
    damage(record)
    with pytest.raises(RunFolderError, match=word) as refusal:
        Certificates.from_dict(record, path="RUN/certificates.json", remedy="certify again")
    assert "RUN/certificates.json" in str(refusal.value)
    assert "\n" not in str(refusal.value)

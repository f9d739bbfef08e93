"""Verdicts and the record of certificates."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from jkoflow.certify.claim import (
    Certificates,
    Claim,
    KLBracket,
    Says,
    undecided,
    verdict_below,
    verdict_counts,
)
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
        "says",
        "reader",
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
        Claim("f", "g", "plug-in", "told", 0.3, says=(Says("kl", 0.1, math.inf), Says("tv")), reader="kl"),
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
        "g": ["f"],
    }


def test_certificates_of_older_versions_load() -> None:
    """Claims had neither `says` nor `reader`, and no verdict "told"."""
    record = json.loads(some_certificates().to_json())
    for claim in record["claims"]:
        del claim["says"], claim["reader"]
    found = Certificates.from_dict(record)
    assert [claim.claim for claim in found.claims] == ["a", "c", "e", "f"]
    assert {(claim.says, claim.reader) for claim in found.claims} == {((), "")}


def test_a_number_that_is_told_is_counted_as_that() -> None:
    told = Claim("a", "b", "plug-in", "told", 1.0)
    assert verdict_counts([told, replace(told, verdict="holds"), told]) == "1 holds, 2 told"
    assert told.stands


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
        (lambda r: r["claims"][0].update(reader=3), "reader is not text"),
        (lambda r: r["claims"][0].update(said="x"), "expected keys"),
        (lambda r: r["claims"][3]["says"][0].update(quantity="mmd"), "quantity 'mmd'"),
        (lambda r: r["claims"][3]["says"][0].update(low="0"), "not a number"),
        (lambda r: r["claims"][3]["says"][0].pop("high"), "expected keys"),
    ],
)
def test_damaged_record_is_refused(damage: Any, word: str) -> None:
    record = json.loads(some_certificates().to_json())
    damage(record)
    with pytest.raises(RunFolderError, match=word) as refusal:
        Certificates.from_dict(record, path="RUN/certificates.json", remedy="certify again")
    assert "RUN/certificates.json" in str(refusal.value)
    assert "\n" not in str(refusal.value)

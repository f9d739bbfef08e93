"""Verdicts and the record of certificates."""

from __future__ import annotations

import json
import math

import pytest

from jkoflow.certify.claim import Certificates, Claim, KLBracket, undecided, verdict_below


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

"""Whether rows given to judge a model are of the law of those that its fit set aside, by their NLL.

    NLL(rows given) - NLL(rows set aside),    the latter as the model folder records it, nats, data units

Two samples of one law have the same expected NLL under any model, so that rows that are clearly less likely
are of another law, and what they show is no fault of the model. That rows are as likely proves no sameness.
The interval takes the spread of the rows given for that of the others; an honest table is accused in 1 of
10,000. Source: ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy.stats import norm

from jkoflow.certify.claim import INTEGRITY_READER, SAME_LAW_READER, Claim, undecided, verdict_below
from jkoflow.certify.evidence import Evidence
from jkoflow.data import Schema
from jkoflow.flow.likelihood import log_prob
from jkoflow.model import Model

__all__ = ["Recorded", "blaming", "claims", "recorded_of"]

_CLAIM = "the rows are as likely under the model as those that its fit set aside"
_SOURCE = "ours: rows of one law have one expected NLL"
_OTHER_LAW = (
    "the rows are of another law than those of the fit: fit them by themselves, or judge the model by the "
    "rows that its fit set aside"
)
"""The remedy of everything that fails on such rows."""

_FAULTS_OF_THE_MODEL = (INTEGRITY_READER, "")
"""Readers whose claims fail on rows of any law."""

_LEVEL = 0.9999
_MATERIAL_NATS = 0.1
"""Rows count as of another law from so many nats on, interval included."""


@dataclass(frozen=True)
class Recorded:
    """What a fit recorded of the rows that it set aside and never looked at.

    Arguments:
        nll: Their mean NLL, nats, data units.
        rows: How many they were.
        schema: Of the model: its Jacobian turns standardised densities into those of the data.
    """

    nll: float
    rows: int
    schema: Schema


def recorded_of(model: Model) -> Recorded | None:
    """What the fit of the model recorded; None where no rows were held out of it."""
    facts = model.facts
    nll, rows = facts.get("held_out_nll_nats"), facts.get("held_out_rows")
    if (
        facts.get("held_out_on") != "holdout"
        or not isinstance(nll, float)
        or not rows
        or not math.isfinite(nll)
    ):
        return None
    return Recorded(nll, int(rows), model.schema)


def claims(evidence: Evidence, recorded: Recorded | None) -> list[Claim]:
    """The claim; none where nothing was recorded, or there are no rows."""
    rows = evidence.held_out
    if recorded is None or rows is None or len(rows) < 2:
        return []
    nats = -(log_prob(evidence.flow, rows.x, rows.context).cpu() + recorded.schema.log_jacobian(rows.x).cpu())
    mean, error = rows.mean(nats), rows.standard_error(nats)
    spread = error * math.sqrt(rows.effective_rows)
    half = float(norm.ppf((1 + _LEVEL) / 2)) * math.hypot(error, spread / math.sqrt(recorded.rows))
    told: dict[str, Any] = {"unit": "nats", "space": "data", "rows": len(rows)}
    own = f"{recorded.nll:.4g} on the {recorded.rows:,} rows that the fit set aside"
    seen = f"their NLL is {mean:.4g} nats, and {own}"
    gap = mean - recorded.nll
    if not (math.isfinite(gap) and math.isfinite(half)):
        why = "a row has no finite log-density"
        return [
            undecided(
                _CLAIM, _SOURCE, "plug-in", why=why, remedy="look for values far outside the table", **told
            )
        ]
    interval = (gap - half, gap + half)
    verdict = verdict_below(interval, _MATERIAL_NATS)
    remedy = {"holds": "", "undecided": "give more rows", "fails": _OTHER_LAW}[verdict]
    return [
        Claim(
            _CLAIM,
            _SOURCE,
            "plug-in",
            verdict,
            gap,
            interval=interval,
            level=_LEVEL,
            bound=_MATERIAL_NATS,
            unit="nats less likely",
            space="data",
            assumption=seen,
            rows=len(rows),
            remedy=remedy,
        )
    ]


def blaming(found: Sequence[Claim]) -> tuple[Claim, ...]:
    """The claims; where the rows are of another law, what fails on them says so and blames no model."""
    if not any(claim.reader == SAME_LAW_READER and claim.verdict == "fails" for claim in found):
        return tuple(found)
    return tuple(
        replace(claim, remedy=_OTHER_LAW)
        if claim.verdict == "fails" and claim.reader not in _FAULTS_OF_THE_MODEL
        else claim
        for claim in found
    )

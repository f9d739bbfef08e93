r"""The mean negative log-likelihood of rows that the fit never saw.

    NLL = -E_{p_0}[log q_0] = H(p_0) + KL(p_0 || q_0),    estimated by -mean_i log q_0(x_i)

with Student's interval, by the rows' weights and their effective number. The entropy H(p_0) is not known, so
that no value is good or bad by itself; the difference of two models' is. Source: Cheng, Lu, Tan & Xie (2024),
arXiv 2310.17582, below eq. (38).
"""

from __future__ import annotations

import math

from scipy.stats import t as student

from jkoflow.certify.claim import Claim, undecided
from jkoflow.certify.evidence import GIVE_ROWS, LEVEL, Evidence
from jkoflow.flow.likelihood import log_prob

__all__ = ["claims"]

_CLAIM = "mean negative log-likelihood of the held-out rows, smaller is better"
_SOURCE = "Cheng, Lu, Tan & Xie (2024), below eq. (38)"


def claims(evidence: Evidence) -> list[Claim]:
    """The mean NLL with its interval, nats in standardised units: told, against no bound."""
    rows = evidence.held_out
    if rows is None or not len(rows):
        return [undecided(_CLAIM, _SOURCE, "plug-in", why="no held-out rows", remedy=GIVE_ROWS)]
    nats = -log_prob(evidence.flow, rows.x, rows.context)
    finite = int(nats.isfinite().sum())
    if finite < len(nats):
        return [
            undecided(
                _CLAIM,
                _SOURCE,
                "plug-in",
                why=f"{len(nats) - finite} of {len(nats)} rows have no finite log-density",
                remedy="look for values far outside the training range in these rows",
                unit="nats",
                rows=len(nats),
            )
        ]
    mean, spread, count = rows.mean(nats), math.nan, rows.effective_rows
    if count > 1:
        spread = float(student.ppf((1 + LEVEL) / 2, count - 1)) * rows.standard_error(nats)
    interval = (mean - spread, mean + spread) if math.isfinite(spread) else None
    return [
        Claim(
            _CLAIM,
            _SOURCE,
            "plug-in",
            "told",
            mean,
            interval=interval,
            level=LEVEL if interval else None,
            unit="nats",
            rows=len(nats),
        )
    ]

r"""Whether log_prob is the logarithm of a density at spikes: the mass of the float cells around rows is <= 1.

    sum_x q_0(x) prod_j c_j(x) <= 1,    x the distinct held-out rows, or samples where there are none

Source: `jkoflow.flow.cells`.
"""

from __future__ import annotations

import math

from jkoflow.certify.claim import Claim, Verdict
from jkoflow.certify.evidence import GIVE_ROWS, Evidence
from jkoflow.flow.cells import log_cell_mass

__all__ = ["claims"]

_CLAIM = "the density puts no more than 1 on the cells of its float type around rows"
_SOURCE = "jkoflow: a density integrates to 1; cells of IEEE 754 around distinct rows do not overlap"
_CELL_ROWS = 4096
_ROUNDING_NATS = 0.1
"""That much log_prob in float32 may be too high throughout where nothing else is wrong."""


def claims(evidence: Evidence) -> list[Claim]:
    """The mass of the cells around held-out rows, or around samples; by their context where there is one."""
    rows = evidence.held_out
    if evidence.takes_context and (rows is None or rows.context is None):
        return []
    if not rows:
        rows = evidence.draw(_CELL_ROWS, part=42)
    rows = rows.rows(slice(_CELL_ROWS))
    nats = log_cell_mass(evidence.flow, rows.x, rows.context)
    verdict: Verdict = "undecided" if math.isnan(nats) else "holds" if nats <= _ROUNDING_NATS else "fails"
    remedies: dict[Verdict, str] = {
        "holds": "",
        "undecided": GIVE_ROWS,
        "fails": "log_prob is no density there: fit with dtype='float64', or the logarithm of the column",
    }
    return [
        Claim(
            _CLAIM,
            _SOURCE,
            "theorem",
            verdict,
            None if math.isnan(nats) else math.exp(min(nats, 700.0)),
            bound=1.0,
            unit="mass",
            rows=len(rows),
            remedy=remedies[verdict],
        )
    ]

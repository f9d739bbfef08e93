r"""How far the law that the flow was fitted to is from the law of the data: the price of a density.

    W2(P, rho_t)² <= (1 - e^{-t})² M2 + (1 - e^{-2t}) d <= t (M2 + 2d) = delta²      Ornstein-Uhlenbeck
    W2(P, rho_t)² <= 2 t d                                                        Brownian

with M2 = E|X|² over the rows. Measured is W2 between the rows before and after, by the best assignment of up
to 2,000 of them; the pairs themselves are a coupling, so it is below their root mean square distance, whose
expectation is the first bound exactly. Atoms attain it, since all rows of an atom are the same; where the
data lie on a curve, what moves along the curve costs nothing and W2 stays below.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, Lemma C.1 and Corollary 5.3.
"""

from __future__ import annotations

import math

import torch
from scipy.stats import norm
from torch import Tensor

from jkoflow.certify.claim import Claim, undecided, verdict_below
from jkoflow.certify.evidence import LEVEL, Evidence
from jkoflow.certify.w2_to_base import assignment_w2_squared
from jkoflow.particles.smoothing import Smoothing

__all__ = ["claims"]

_NOTHING = "nothing was smoothed: p_0 = P"
_W2 = "W2 between the data and what the flow was fitted to is at most the bound"
_MOVED = "smoothing moved the rows as far as its time says, in root mean square"
_SOURCE = "Cheng, Lu, Tan & Xie (2024), Lemma C.1 and Corollary 5.3"
_UNIT = "standardised units"
_AS_THEY_ARE = "give the rows as they are, as a table: certify smooths them as the fit did"
_ROWS = 2000
"""W2 is measured between at most so many rows before and after; the assignment costs their cube."""

_FEWEST_ROWS = 50
"""With fewer rows than this nothing is measured."""

_MOVED_LEVEL = 0.999
"""The coupling is held against its expectation at this level, so that one fit in 1,000 fails by chance."""


def claims(evidence: Evidence) -> list[Claim]:
    """W2(P, rho_t) against Lemma C.1, and whether the rows were moved as its coupling moves them."""
    recorded = _dequantised(evidence)
    if evidence.smoothing is None:
        return [Claim(_NOTHING, _SOURCE, "theorem", "holds", 0.0, bound=0.0, unit=_UNIT, assumption=recorded)]
    before, after = evidence.unsmoothed, evidence.held_out
    if before is None or after is None or before.x.shape != after.x.shape or len(after) < _FEWEST_ROWS:
        why = f"fewer than {_FEWEST_ROWS} rows that are there both before and after smoothing"
        return [
            undecided(
                _W2,
                _SOURCE,
                "theorem",
                why=why,
                remedy="give more held-out rows, as a table; certify smooths them itself",
            )
        ]
    x, y = before.x.double().cpu(), after.x.double().cpu()
    if not (x.isfinite().all() and y.isfinite().all()):
        return [undecided(_W2, _SOURCE, "theorem", why="a row is not finite", remedy="look at the rows")]
    order = torch.randperm(len(x), generator=evidence.stream("smoothing rows"))
    x, y = x[order], y[order]
    return [_w2_claim(x, y, evidence.smoothing, recorded), _moved_claim(x, y, evidence.smoothing)]


def _dequantised(evidence: Evidence) -> str:
    """What P means where columns were recorded on a grid."""
    if not evidence.dequantised:
        return ""
    names = ", ".join(evidence.dequantised)
    return f"P after uniform noise of one step h in {names}: h/sqrt(12) more in each from the recorded values"


def _lemma(x: Tensor, smoothing: Smoothing) -> float:
    """delta, the bound that a time is chosen by: sqrt(t (M2 + 2d)), or sqrt(2 t d) for the Brownian one."""
    if smoothing.kind == "brownian":
        return smoothing.w2_bound(x)
    time = smoothing.resolve(x).time
    assert time is not None
    return math.sqrt(time * (float(x.square().sum(dim=1).mean()) + 2 * x.shape[1]))


def _w2_claim(x: Tensor, y: Tensor, smoothing: Smoothing, recorded: str) -> Claim:
    """W2 of the rows in a random order; its interval is that of the coupling's mean, which is above it."""
    some, moved = (x[:_ROWS], y[:_ROWS]), (x - y)[:_ROWS].square().sum(dim=1)
    squared = assignment_w2_squared(some[0].numpy(), some[1].numpy())
    half = float(norm.ppf((1 + LEVEL) / 2)) * float(moved.std()) / math.sqrt(len(moved))
    interval = (math.sqrt(max(squared - half, 0.0)), math.sqrt(squared + half))
    bound = _lemma(x, smoothing)
    verdict = verdict_below(interval, bound)
    return Claim(
        f"{_W2}, at t = {smoothing.resolve(x).time:.3g}",
        _SOURCE,
        "theorem",
        verdict,
        math.sqrt(squared),
        interval=interval,
        level=LEVEL,
        bound=bound,
        unit=_UNIT,
        assumption=recorded,
        rows=len(moved),
        remedy={
            "holds": "",
            "undecided": "give more held-out rows; the bound itself is a theorem's",
            "fails": _AS_THEY_ARE,
        }[verdict],
    )


def _moved_claim(x: Tensor, y: Tensor, smoothing: Smoothing) -> Claim:
    """The coupling's mean square against its expectation, from both sides."""
    moved, expected = (x - y).square().sum(dim=1), smoothing.w2_bound(x)
    mean = float(moved.mean())
    half = float(norm.ppf((1 + _MOVED_LEVEL) / 2)) * float(moved.std()) / math.sqrt(len(moved))
    holds = abs(mean - expected**2) <= half
    return Claim(
        _MOVED,
        f"{_SOURCE}: the first bound is the coupling's own mean square",
        "plug-in",
        "holds" if holds else "fails",
        math.sqrt(mean),
        interval=(math.sqrt(max(mean - half, 0.0)), math.sqrt(mean + half)),
        level=_MOVED_LEVEL,
        bound=expected,
        unit=_UNIT,
        rows=len(moved),
        remedy="" if holds else _AS_THEY_ARE,
    )

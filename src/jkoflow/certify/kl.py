r"""How far the model is from the data: KL(p_0‖q_0) between a proven lower end and an upper one.

    lower       D - 1.645 s.e.,                             D of critics on rows new to them (`cross_fitting`)
    estimate    max{(D_fit + D)/2, KL by neighbours},       D_fit on the rows that they were fitted on
    upper       max{D + 2 (D_fit - D), KL by neighbours} + 0.6 estimate + 1.645 s.e.

A best fit explains its own rows better than the truth does, others less well, and to first order by the
same amount (Akaike 1974, IEEE Trans. Autom. Control 19, 716), hence the mean of the two. Critics that stop
before they have learned anything have no optimism and prove nothing; nearest neighbours (`neighbours`) see
structure down to their distances whether or not it can be learned, with a standard error of their own,
which is the least width of the bracket. The upper end rests on what both miss being no more than twice the
optimism and 0.6 of the estimate. No procedure bounds a KL from above from samples without an assumption;
this one was checked on flows with known KL (docs/coverage.md). There is no upper end where the data's tail
is heavier than the model can hold (`tails`), and no bracket at all on rows that the fit has seen.

Source: theory, "Beyond the paper", bracket from below and upper end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import norm

from jkoflow.certify.claim import Claim, Kind, KLBracket, undecided
from jkoflow.certify.copies import distinct_rows, share_of_atoms
from jkoflow.certify.cross_fitting import CrossFitted, cross_fit, cross_validated_folds, draw_folds
from jkoflow.certify.evidence import GIVE_ROWS, LEAST_ROWS, LEVEL, Evidence, too_few
from jkoflow.certify.neighbours import NeighbourKL, neighbour_kl
from jkoflow.certify.seen import Seen
from jkoflow.certify.tails import heavier_tails, tails

__all__ = ["bracket"]

_MOST_ROWS = 10_000
"""The bracket is made from at most so many held-out rows, drawn at random, which bounds its cost."""

_MOST_CAPPED = 0.05
"""There is no upper end by critics where a larger share of the rows than this is at the highest ceiling:
nobody can say how far above it they are."""

_MOST_SEEN = 0.05
"""There is no bracket where more than this share of the rows was seen by the fit, beyond chance."""

_MOST_REPEATED = 0.01
"""There is no upper end where a larger share of the rows than this coincide with others: their law has no
density."""

_OPTIMISM = 2.0
"""The upper end allows for so many times what critics gain on the rows that they were fitted on."""

_MISSED_SHARE = 0.6
"""The upper end allows for this share of the estimate to be finer than rows can tell."""

_LOWER = "KL(p_0‖q_0) is at least this"
_ESTIMATE = "KL(p_0‖q_0) is about this"
_UPPER = "KL(p_0‖q_0) is at most this"
_NEIGHBOURS = "KL(p_0‖q_0) by nearest neighbours is about this"

_ENOUGH = (
    "what critics (classifiers between real and generated rows, and other densities) and nearest neighbours "
    "miss of the KL is at most twice what critics gain on rows of their own fit, plus 0.6 of the estimate"
)
_SOURCE = "Nguyen, Wainwright & Jordan (2010); theory, 'Beyond the paper', the bracket"
_UPPER_SOURCE = "theory, 'Beyond the paper': an upper end rests on an assumption"
_NEIGHBOURS_SOURCE = "Kozachenko & Leonenko (1987), corrected on the model's own draws"


@dataclass(frozen=True)
class _Found:
    """What is known of the KL: by critics, by neighbours, and why it is infinite, "" where it is not."""

    critics: CrossFitted
    neighbours: NeighbourKL | None
    infinite: str
    rows: int


def bracket(evidence: Evidence) -> tuple[KLBracket, list[Claim]]:
    """The ends and the estimate of KL(p_0‖q_0) in nats, and a claim for each."""
    pooled = evidence.pooled
    rows = pooled.unweighted
    if rows is None or len(rows) < LEAST_ROWS:
        count = 0 if rows is None else len(rows)
        return KLBracket(level=LEVEL), [_nothing(too_few(count), count)]
    if evidence.seen is not None and evidence.seen.share(len(rows)) > _MOST_SEEN:
        why = (
            f"{evidence.seen.exact + evidence.seen.near:,} of {len(rows):,} rows are, exactly or nearly, "
            "rows that the fit has seen, which proves nothing of others"
        )
        return KLBracket(level=LEVEL), [_nothing(why, len(rows))]
    distinct = distinct_rows(rows)
    if len(distinct) < LEAST_ROWS:
        why = f"{len(distinct)} different held-out rows, of {LEAST_ROWS} that are needed"
        return KLBracket(level=LEVEL), [_nothing(why, len(rows))]
    order = torch.randperm(len(distinct), generator=evidence.stream("folds"))[:_MOST_ROWS]
    parts = evidence.cross_validated
    folds = (
        cross_validated_folds(parts)
        if parts
        else draw_folds(evidence, distinct.rows(order.to(rows.x.device)))
    )
    seen = Seen.joined([held_out for held_out, _ in folds])
    neighbours = None
    if seen.context is None:
        model = parts[0] if parts else evidence
        draws = Seen.by(model, model.draw(len(seen), part=60))
        neighbours = neighbour_kl(seen, draws, generator=evidence.stream("neighbours"))
    critics = cross_fit(evidence, folds)
    if not math.isfinite(critics.value + critics.se):
        return KLBracket(level=LEVEL), [_nothing("log q_0 is no number on some of the rows", len(rows))]
    return _bracket(_Found(critics, neighbours, _infinite(pooled, share_of_atoms(rows)), len(seen)))


def _nothing(why: str, rows: int) -> Claim:
    return undecided(_LOWER, _SOURCE, "lower", why=why, remedy=GIVE_ROWS, unit="nats", rows=rows)


def _infinite(evidence: Evidence, atoms: float) -> str:
    """Why the KL is taken to be infinite; "" where nothing speaks for it. `atoms` is a share of the rows."""
    if atoms > _MOST_REPEATED:
        told = f"{atoms:.0%} of the rows coincide with others"
        return f"{told}, so that their law has atoms and no density, while the model has one"
    heavier = heavier_tails(tails(evidence))
    if not heavier:
        return ""
    along = ", ".join(tail.along for tail in heavier[:5])
    return (
        f"the rows' tail is heavier than the model can hold along {along}: the mean of -log q_0 is infinite"
    )


def _bracket(found: _Found) -> tuple[KLBracket, list[Claim]]:
    quantile = float(norm.ppf(LEVEL))
    critics, neighbours = found.critics, _usable(found.neighbours)
    lower = max(0.0, critics.value - quantile * critics.se)
    centre = critics.value + critics.optimism / 2
    highest = critics.value + _OPTIMISM * critics.optimism + quantile * critics.se
    if neighbours is not None:
        centre = max(centre, neighbours.value)
        highest = max(highest, neighbours.value + quantile * neighbours.se)
    elif critics.capped > _MOST_CAPPED:
        highest = math.inf
    estimate = max(lower, centre)
    upper = max(estimate, highest) + _MISSED_SHARE * estimate
    infinite = found.infinite
    if not infinite and math.isinf(upper):
        infinite = f"more than {_MOST_CAPPED:.0%} of the rows have a log p_0/q_0 above what critics can tell"
    told: dict[str, Any] = {"unit": "nats", "rows": found.rows}
    lowest = Claim(_LOWER, _SOURCE, "lower", "holds", critics.value, (lower, math.inf), LEVEL, **told)
    beside = [] if found.neighbours is None else [_neighbour_claim(found.neighbours, told)]
    if infinite:
        unknown = (
            _unknown(_ESTIMATE, "plug-in", infinite, told),
            _unknown(_UPPER, "upper-under-assumption", infinite, told),
        )
        claims = [lowest, *unknown, *beside]
        return KLBracket(lower, None, math.inf, LEVEL, infinite), claims
    claims = [
        lowest,
        Claim(_ESTIMATE, "Akaike (1974); nearest neighbours", "plug-in", "holds", estimate, **told),
        _upper_claim(highest, upper, told),
        *beside,
    ]
    return KLBracket(lower, estimate, upper, LEVEL, _ENOUGH), claims


def _usable(neighbours: NeighbourKL | None) -> NeighbourKL | None:
    return neighbours if neighbours is not None and math.isfinite(neighbours.value) else None


def _unknown(text: str, kind: Kind, why: str, told: dict[str, Any]) -> Claim:
    remedy = "the lower end stands; see the claims on the tails for the columns" if "tail" in why else ""
    return undecided(text, _UPPER_SOURCE, kind, why=why, remedy=remedy, **told)


def _upper_claim(measured: float, upper: float, told: dict[str, Any]) -> Claim:
    return Claim(
        _UPPER,
        _UPPER_SOURCE,
        "upper-under-assumption",
        "holds",
        measured,
        (0.0, upper),
        LEVEL,
        assumption=_ENOUGH,
        **told,
    )


def _neighbour_claim(found: NeighbourKL, told: dict[str, Any]) -> Claim:
    if _usable(found) is None:
        why = "rows coincide with others, so that no distance tells of a density"
        return undecided(_NEIGHBOURS, _NEIGHBOURS_SOURCE, "plug-in", why=why, remedy="", **told)
    return Claim(
        _NEIGHBOURS,
        _NEIGHBOURS_SOURCE,
        "plug-in",
        "holds",
        found.value,
        interval=found.interval,
        level=LEVEL,
        assumption="nothing in the data is finer than the distances between neighbours and not in the model",
        **told,
    )

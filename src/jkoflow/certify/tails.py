r"""Whether the data's tail is heavier than the model's, so that their KL is infinite.

    P(|X| > r) ~ r^{-alpha},   -log q_0(x) ~ |x|^a   far out:     KL(p_0‖q_0) = oo   where a >= alpha

since then E_p[-log q_0] = oo while the entropy of p_0 is finite. alpha is read off the largest held-out
rows: the excesses over a high threshold have nearly a generalised Pareto law, whose shape is 1/alpha
(Pickands 1975, Ann. Statist. 3, 119), fitted by the estimator of Zhang & Stephens (2009), Technometrics 51,
316. a is measured on the model itself, from two radii far beyond the rows. Both along the radius from the
rows' median and along each column.

Source: theory, "Beyond the paper", infinite divergence by tails.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.stats import norm
from torch import Tensor

from jkoflow.certify.claim import Claim, Verdict, undecided, verdict_below
from jkoflow.certify.evidence import GIVE_ROWS, LEAST_ROWS, LEVEL, Evidence, too_few
from jkoflow.certify.pareto import fit_pareto_tail
from jkoflow.flow.likelihood import log_prob

__all__ = ["Tail", "claims", "heavier_tails", "tails"]

_ROWS = 10_000
"""At most so many held-out rows are looked at, the first, which bounds the cost in many columns."""

_EXCESSES = 2 / 3
"""Of n rows the n^{2/3} farthest are excesses: enough for a small error, few enough to be of the tail."""

_FEWEST_EXCESSES = 20
"""A tail is read from at least so many rows."""

_RADII = (1e40, 1e60)
"""-log q_0 is compared at these radii, in units of the farthest row's: closings of heavy tables have
components as wide as 10^12 standard deviations, beyond which their tail is a normal law's all the same."""

_DIRECTIONS = 64
"""-log q_0 is compared along so many random directions; the growth is the median's."""

_SOURCE = "Pickands (1975); theory, 'Beyond the paper', infinite divergence by tails"
_CLAIM = (
    "the rows' tail along {} is light enough for the model: 1/(tail index) is at most 1/a, -log q_0 ~ |x|^a"
)
_REMEDY = "fit the logarithm or the ranks of what has heavy tails, or leave out rows far beyond the others"


@dataclass(frozen=True)
class Tail:
    """The tail of the rows along one coordinate beside the model's.

    Arguments:
        along: The coordinate: the radius, or a column by its number.
        shape: 1/alpha by the rows; below 0 for a law that ends.
        se: Its standard error.
        farther: The same by the farthest quarter of these rows: a broad component that few rows are of looks
            like a heavy tail until there are rows of it alone.
        growth: a, the power by which -log q_0 grows.
        rows: Excesses that it was read from.
    """

    along: str
    shape: float
    se: float
    farther: float
    growth: float
    rows: int

    @property
    def goes_on(self) -> bool:
        """Whether the farthest rows do not contradict that the tail is heavier than the model can hold."""
        return (self.farther + self.se) * self.growth > 1

    def interval(self, level: float) -> tuple[float, float]:
        """1/alpha, two-sided."""
        half = float(norm.ppf((1 + level) / 2)) * self.se
        return self.shape - half, self.shape + half


def tails(evidence: Evidence) -> list[Tail]:
    """The radius, then every column; empty where there are too few rows, or where they have a context."""
    rows = evidence.unweighted
    if rows is None or len(rows) < LEAST_ROWS or evidence.takes_context:
        return []
    x = rows.x[:_ROWS].double().cpu()
    x = x - x.median(dim=0).values
    farthest = max(1.0, float(x.norm(dim=1).max()))
    ways = torch.randn(_DIRECTIONS, x.shape[1], generator=evidence.stream("tails"), dtype=torch.float64)
    radial = _growth(evidence, ways / ways.norm(dim=1, keepdim=True), farthest).median()
    found = [_tail("the radius", x.norm(dim=1), float(radial))]
    if x.shape[1] > 1:
        both = _growth(
            evidence, torch.cat([torch.eye(x.shape[1]), -torch.eye(x.shape[1])]).double(), farthest
        )
        growth = both.reshape(2, -1).amax(dim=0)
        names = evidence.names or [f"column {j + 1}" for j in range(x.shape[1])]
        found += [_tail(names[j], x[:, j].abs(), float(growth[j])) for j in range(x.shape[1])]
    return found


def heavier_tails(found: Sequence[Tail]) -> list[Tail]:
    """Those along which the KL is infinite: the radius by half a standard error, columns beyond chance."""
    together = 1 - (1 - LEVEL) / max(1, len(found) - 1)
    radius = [tail for tail in found[:1] if (tail.shape - tail.se / 2) * tail.growth > 1]
    beyond = radius + [tail for tail in found[1:] if tail.interval(together)[0] * tail.growth > 1]
    return [tail for tail in beyond if tail.goes_on]


def claims(evidence: Evidence) -> list[Claim]:
    """The tail of the radius, and the heaviest of the columns beside what the model can hold."""
    evidence = evidence.pooled
    found = tails(evidence)
    if not found:
        rows = 0 if evidence.unweighted is None else len(evidence.unweighted)
        why, remedy = too_few(rows), GIVE_ROWS
        if rows >= LEAST_ROWS:
            why, remedy = "each context has a tail of its own", "see the bracket of the KL"
        return [undecided(_CLAIM.format("the radius"), _SOURCE, "plug-in", why=why, remedy=remedy, rows=rows)]
    radius, *columns = found
    told = [_claim(radius, radius.along, LEVEL)]
    if columns:
        heavier = [tail.along for tail in heavier_tails(found) if tail is not radius]
        worst = max(
            columns, key=lambda tail: -math.inf if math.isnan(tail.shape) else tail.shape * tail.growth
        )
        along = ", ".join(heavier[:5]) if heavier else f"every column (the heaviest, {worst.along})"
        told.append(_claim(worst, along, 1 - (1 - LEVEL) / len(columns)))
    return told


def _claim(tail: Tail, along: str, level: float) -> Claim:
    statement, bound = _CLAIM.format(along), 1 / tail.growth
    if not math.isfinite(tail.shape):
        why = "too few different values lie beyond the others"
        return undecided(statement, _SOURCE, "plug-in", why=why, remedy="", rows=tail.rows)
    interval = tail.interval(level)
    verdict: Verdict = verdict_below(interval, bound)
    if verdict == "fails" and not tail.goes_on:
        verdict = "undecided"
    return Claim(
        statement,
        _SOURCE,
        "plug-in",
        verdict,
        tail.shape,
        interval=interval,
        level=level,
        bound=bound,
        unit="1/(tail index)",
        assumption="the rows that lie farthest out are of the tail already",
        rows=tail.rows,
        remedy="" if verdict == "holds" else _REMEDY,
    )


def _tail(along: str, distance: Tensor, growth: float) -> Tail:
    count = max(_FEWEST_EXCESSES, int(len(distance) ** _EXCESSES))
    shape, excesses = _shape(distance, count)
    farther, _ = _shape(distance, max(_FEWEST_EXCESSES, count // 4))
    se = (1 + max(0.0, shape)) / math.sqrt(excesses) if excesses else math.nan
    return Tail(along, shape, se, farther, growth, excesses)


def _shape(distance: Tensor, count: int) -> tuple[float, int]:
    """1/alpha by the `count` largest distances, and how many of them lie beyond the threshold."""
    largest = distance.topk(min(count + 1, len(distance))).values
    excesses = largest[:-1] - largest[-1]
    excesses = excesses[excesses > 0]
    tail = fit_pareto_tail(excesses.double().numpy())
    if tail is None or len(excesses) < _FEWEST_EXCESSES // 2:
        return math.nan, 0
    return tail.shape, len(excesses)


def _growth(evidence: Evidence, directions: Tensor, farthest: float) -> Tensor:
    """a along each direction, shape `(m,)`, in float64."""
    exact = copy.deepcopy(evidence.flow).double()
    near, far = (
        -log_prob(exact, (radius * farthest * directions).to(evidence.like.device)).double().cpu()
        for radius in _RADII
    )
    return (far / near).log() / math.log(_RADII[1] / _RADII[0])

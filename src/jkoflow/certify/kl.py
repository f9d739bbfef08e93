r"""How far the model is from the data: KL(p_0‖q_0) between a proven lower end and an upper one.

    lower       KL >= E_p[h] - c - E_q[e^{h - c}] + 1 =: D(h)     for every h, c; D on rows new to h
    estimate    (D_fit(h) + D(h))/2,   D_fit on the rows that h was fitted on
    upper       D(h) + 2 (D_fit(h) - D(h))

The first is Donsker & Varadhan's bound without its logarithm; where a mixture r as a witness proves more,
it is E_p[log r - log q_0]. The rows are cut in folds: on all but one the critics are fitted and put together,
on that one they are evaluated, and the values are averaged; what is averaged is cut from above, so the
one-sided interval is the normal one. A best fit explains its own rows better than the truth does, others
less well, and to first order by the same amount (Akaike 1974, IEEE Trans. Autom. Control 19, 716), hence the
estimate. The upper end rests on what h misses of log p_0/q_0 being no more than twice its optimism
D_fit - D: critics are stopped where more fitting gains nothing on new rows, so what they have learned of
noise tells how much structure they had to leave. No procedure bounds a KL from above from samples without an
assumption; this one was checked on flows with known KL (docs/coverage.md).

Source: theory, "Beyond the paper", bracket from below and witness bound; the form without logarithm is that
of Nguyen, Wainwright & Jordan (2010), arXiv 0809.0853.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import norm
from torch import Tensor

from jkoflow.certify.claim import Claim, KLBracket, undecided
from jkoflow.certify.critic import fit_network, fit_trees
from jkoflow.certify.evidence import GIVE_ROWS, LEVEL, Evidence
from jkoflow.certify.seen import Seen
from jkoflow.certify.stacking import stack
from jkoflow.certify.witness import Mixture, affordable_components
from jkoflow.flow.likelihood import standard_error
from jkoflow.particles import Particles

__all__ = ["bracket"]

_LEAST_ROWS = 100
"""The bracket needs at least so many held-out rows."""

_MOST_ROWS = 10_000
"""The bracket is made from at most so many held-out rows, drawn at random, which bounds its cost."""

_LEAST_DRAWS = 4096
"""The folds together have at least so many fresh samples of q_0, however few the rows are."""

_MOST_DRAWS = 10_000
"""The folds together have at most so many fresh samples of q_0."""

_FOLDS = 3
"""The rows are cut in so many parts: critics are fitted on all but one and evaluated on that one."""

_FLOOR_NATS = -10.0
"""h - c is cut from below there, so that no single row decides an average; the bound holds for any h, cut
too."""

_CEILINGS_NATS = (4.0, 7.0)
"""h - c is cut from above at one of these, whichever promises the larger bound on rows kept for the
choice."""

_MOST_CAPPED = 0.05
"""There is no upper end where a larger share of the rows than this is at the highest ceiling: nobody can
say how far above it they are."""

_WITNESS_CEILING_NATS = 80.0
"""log r - log q_0 of a mixture r as a witness is cut from above there, which only lowers the bound."""

_STACKING_SHARE = 0.25
"""So large a share of the fitted rows is kept for putting the critics together and choosing among the
bounds."""

_WAVES_DIM = 3
"""Up to so many columns there is a network with random Fourier features too (docs/performance.md,
"Critics")."""

_WAVES_SCALE = 3.0
"""Standard deviation of the phase of these features over the standardised columns (docs/performance.md,
"Critics")."""

_ENOUGH = "the critics miss no more of log p_0/q_0 than twice what they gain on the rows they were fitted on"
_SOURCE = "Donsker & Varadhan; Nguyen, Wainwright & Jordan (2010); witness bound"

Numbers = Callable[[Seen], Tensor]
"""h of rows, shape `(n,)`, nats, float64."""


@dataclass(frozen=True)
class _Value:
    """A bound's value before its interval and its standard error, nats; the share of rows at the ceiling."""

    value: float
    se: float
    capped: float = 0.0


Bound = Callable[[Seen, Seen], _Value]
"""Evaluates a fitted bound on rows and on draws of q_0."""


@dataclass(frozen=True)
class _Fold:
    """What one fold found.

    Arguments:
        held_out: The bound on the fold.
        fitted: The same on the rows that it was fitted on.
    """

    held_out: _Value
    fitted: _Value


def bracket(evidence: Evidence) -> tuple[KLBracket, list[Claim]]:
    """The ends and the estimate of KL(p_0‖q_0) in nats, and a claim for each."""
    rows = evidence.unweighted
    if rows is None or len(rows) < _LEAST_ROWS:
        count = 0 if rows is None else len(rows)
        why = f"{count} held-out rows, of {_LEAST_ROWS} that are needed"
        return KLBracket(level=LEVEL), [_nothing(why, count)]
    order = torch.randperm(len(rows), generator=evidence.stream("folds"))[:_MOST_ROWS]
    parts = [rows.rows(part.to(rows.x.device)) for part in order.chunk(_FOLDS)]
    seen = [(Seen.by(evidence, part), _draw(evidence, part, fold)) for fold, part in enumerate(parts)]
    folds = [_fold(evidence, seen, number) for number in range(len(seen))]
    return _bracket(folds, len(order))


def _nothing(why: str, rows: int) -> Claim:
    return undecided(_LOWER, _SOURCE, "lower", why=why, remedy=GIVE_ROWS, unit="nats", rows=rows)


_LOWER = "KL(p_0‖q_0) is at least this"
_ESTIMATE = "KL(p_0‖q_0) is about this"
_UPPER = "KL(p_0‖q_0) is at most this"


def _bracket(folds: Sequence[_Fold], n_rows: int) -> tuple[KLBracket, list[Claim]]:
    quantile = float(norm.ppf(LEVEL))
    value, error = _mean([fold.held_out for fold in folds])
    fitted, _ = _mean([fold.fitted for fold in folds])
    optimism = max(0.0, fitted - value)
    lower = max(0.0, value - quantile * error)
    estimate = max(lower, value + optimism / 2)
    upper = max(estimate, value + 2 * optimism) + quantile * error
    if max(fold.held_out.capped for fold in folds) > _MOST_CAPPED:
        upper = math.inf
    told: dict[str, Any] = {"unit": "nats", "rows": n_rows}
    claims = [
        Claim(_LOWER, _SOURCE, "lower", "holds", value, (lower, math.inf), LEVEL, **told),
        Claim(_ESTIMATE, "Akaike (1974)", "plug-in", "holds", estimate, **told),
        _upper_claim(value + 2 * optimism, upper, told),
    ]
    return KLBracket(lower, estimate, upper, LEVEL, _ENOUGH), claims


def _upper_claim(measured: float, upper: float, told: dict[str, Any]) -> Claim:
    source = "theory, 'Beyond the paper': an upper end rests on an assumption"
    if math.isinf(upper):
        why = f"more than {_MOST_CAPPED:.0%} of the rows have a log p_0/q_0 above what critics can tell"
        remedy = "the lower end alone shows that the model is poor: fit it again"
        return undecided(_UPPER, source, "upper-under-assumption", why=why, remedy=remedy, **told)
    return Claim(
        _UPPER,
        source,
        "upper-under-assumption",
        "holds",
        measured,
        (0.0, upper),
        LEVEL,
        assumption=_ENOUGH,
        **told,
    )


def _mean(values: Sequence[_Value]) -> tuple[float, float]:
    """The average over the folds, whose rows are disjoint, and its standard error."""
    return (
        sum(part.value for part in values) / len(values),
        math.hypot(*(part.se for part in values)) / len(values),
    )


def _draw(evidence: Evidence, rows: Particles, fold: int) -> Seen:
    """Fresh samples of q_0, given contexts of `rows` where there are any."""
    count = min(max(len(rows), _LEAST_DRAWS // _FOLDS), _MOST_DRAWS // _FOLDS)
    context = None if rows.context is None else rows.draw(count, evidence.stream(f"context {fold}")).context
    return Seen.by(evidence, evidence.draw(count, context=context, part=fold))


def _fold(evidence: Evidence, seen: Sequence[tuple[Seen, Seen]], number: int) -> _Fold:
    """Critics fitted without the fold of that number, evaluated on it."""
    others = [pair for other, pair in enumerate(seen) if other != number]
    rows, draws = (_shuffled(evidence, [pair[side] for pair in others], number) for side in (0, 1))
    fit, choice = _cut_off(rows)
    fit_draws, choice_draws = _cut_off(draws)
    seed = int(torch.randint(2**31 - 1, (), generator=evidence.stream(f"critics {number}")))
    mixtures = [Mixture(fit, count, seed=seed) for count in affordable_components(fit)]
    critics = [*_critics(evidence, fit, fit_draws, seed, number), *map(_cut_gain, mixtures)]
    combined = _stacked(critics, choice, choice_draws)
    shift = float(torch.logsumexp(combined(choice_draws), 0)) - math.log(len(choice_draws))
    by_ratio = [_donsker_varadhan(combined, shift, ceiling) for ceiling in _CEILINGS_NATS]
    bounds = [*by_ratio, *map(_witness, mixtures)]
    chosen = max(bounds, key=lambda bound: _prospect(bound(choice, choice_draws)))
    return _Fold(held_out=chosen(*seen[number]), fitted=chosen(fit, fit_draws))


def _prospect(value: _Value) -> float:
    """What a bound may be expected to prove: noise is dearer than a little sharpness."""
    return value.value - value.se if math.isfinite(value.value) else -math.inf


def _shuffled(evidence: Evidence, parts: Sequence[Seen], number: int) -> Seen:
    joined = Seen(
        torch.cat([part.x for part in parts]),
        torch.cat([part.z for part in parts]),
        torch.cat([part.log_q0 for part in parts]),
        None if parts[0].context is None else torch.cat([part.context for part in parts]),  # type: ignore[misc]  # all or none
    )
    order = torch.randperm(len(joined), generator=evidence.stream(f"stacking {number}"))
    return joined.rows(order.to(joined.x.device))


def _cut_off(rows: Seen) -> tuple[Seen, Seen]:
    """Rows to fit critics on, and rows to put them together on."""
    count = int((1 - _STACKING_SHARE) * len(rows))
    return rows.rows(slice(0, count)), rows.rows(slice(count, None))


def _critics(evidence: Evidence, rows: Seen, draws: Seen, seed: int, number: int) -> list[Numbers]:
    """Critics that stop where they begin to learn noise."""
    p, q = rows.columns(), draws.columns()
    found = [fit_trees(p, q, seed=seed)]
    few = rows.dim <= _WAVES_DIM
    for waves, scale in ((0, 0.0), *(((2 * rows.dim, _WAVES_SCALE),) if few else ())):
        source = evidence.stream(f"network {number} {waves}")
        found.append(fit_network(p, q, waves=waves, scale=scale, generator=source))
    return [lambda seen, h=h: h(seen.columns()).double() for h in found]  # type: ignore[misc]  # a default binds h


def _stacked(critics: Sequence[Numbers], rows: Seen, draws: Seen) -> Numbers:
    """The best combination of the critics on rows that they were not fitted on."""

    def values(seen: Seen) -> Tensor:
        return torch.stack([h(seen) for h in critics], dim=1)

    weights, offset = stack(values(rows), values(draws))
    return lambda seen: values(seen) @ weights.to(seen.log_q0) + offset


def _donsker_varadhan(h: Numbers, shift: float, ceiling: float) -> Bound:
    """The bound of h less its shift c, at which E_q[e^{h - c}] = 1 on some draws, cut at a ceiling."""

    def evaluate(rows: Seen, fresh: Seen) -> _Value:
        of_p = (h(rows) - shift).clamp(_FLOOR_NATS, ceiling)
        ratio = (h(fresh) - shift).clamp(_FLOOR_NATS, ceiling).exp()
        value = float(of_p.mean() - ratio.mean()) + 1
        capped = float((of_p >= ceiling).double().mean()) if ceiling == max(_CEILINGS_NATS) else 0.0
        return _Value(value, math.hypot(standard_error(of_p), standard_error(ratio)), capped)

    return evaluate


def _cut_gain(mixture: Mixture) -> Numbers:
    """A mixture's log-ratio to the model as a critic."""
    return lambda seen: mixture.gain(seen).clamp(_FLOOR_NATS, -_FLOOR_NATS).nan_to_num()


def _witness(mixture: Mixture) -> Bound:
    """A mixture's witness bound; gains are cut from above alone, which lowers it."""

    def evaluate(rows: Seen, fresh: Seen) -> _Value:
        del fresh
        gain = mixture.gain(rows).clamp_max(_WITNESS_CEILING_NATS)
        return _Value(float(gain.mean()), standard_error(gain))

    return evaluate

r"""A lower bound of KL(p_0‖q_0) by critics that are fitted on some rows and evaluated on others.

    KL >= E_p[h] - c - E_q[e^{h - c}] + 1 =: D(h)     for every h, c; D on rows new to h
    KL >= E_p[log r - log q_0]                        for every normalised density r

The first is Donsker & Varadhan's bound without its logarithm; where a mixture r as a witness proves more,
it is the second. The rows are cut in folds: on all but one the critics are fitted and put together, on that
one they are evaluated, and the values are averaged; what is averaged in the first bound is cut from above,
so the one-sided interval is the normal one.

Source: theory, "Beyond the paper", bracket from below and witness bound; the form without logarithm is that
of Nguyen, Wainwright & Jordan (2010), arXiv 0809.0853.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jkoflow.certify.critic import Critic, fit_network, fit_trees
from jkoflow.certify.evidence import Evidence
from jkoflow.certify.seen import Seen
from jkoflow.certify.stacking import stack
from jkoflow.certify.witness import Mixture, affordable_components
from jkoflow.flow.likelihood import standard_error
from jkoflow.particles import Particles

__all__ = ["CrossFitted", "cross_fit", "cross_validated_folds", "draw_folds"]

_LEAST_DRAWS = 4096
"""The folds together have at least so many fresh samples of q_0, however few the rows are."""

_MOST_DRAWS = 10_000
"""The folds together have at most so many fresh samples of q_0."""

_FOLDS = 5
"""The rows are cut in so many parts: critics are fitted on all but one and evaluated on that one."""

_FLOOR_NATS = -10.0
"""h - c is cut from below there, so that no single row decides an average; the bound holds for any h, cut
too."""

_CEILINGS_NATS = (4.0, 7.0)
"""h - c is cut from above at one of these, whichever promises the larger bound on rows kept for the
choice."""

_STACKING_SHARE = 0.2
"""So large a share of the fitted rows is kept for putting the critics together and choosing among the
bounds."""

Pair = tuple[Seen, Seen]
"""Held-out rows, and fresh samples of q_0."""


@dataclass(frozen=True)
class _Value:
    """A bound's value before its interval and its standard error, nats; the share of rows at the ceiling."""

    value: float
    se: float
    capped: float = 0.0


@dataclass(frozen=True)
class _Told:
    """What fitted critics and witnesses say of some rows, computed once.

    Arguments:
        critics: h_1, ..., h_k of each row, the gains of the witnesses among them, cut; shape `(n, k)`.
        gains: log r - log q_0 of each row for each witness r, shape `(n, m)`.
    """

    critics: Tensor
    gains: Tensor


Bound = Callable[[_Told, _Told], _Value]
"""Evaluates a fitted bound on rows and on draws of q_0."""


@dataclass(frozen=True)
class CrossFitted:
    """What critics find, averaged over the folds.

    Arguments:
        value: D on rows new to the critics, nats.
        se: Its standard error.
        fitted: D on the rows that they were fitted on.
        capped: Largest share of a fold's rows at the highest ceiling, above which nothing is known.
    """

    value: float
    se: float
    fitted: float
    capped: float

    @property
    def optimism(self) -> float:
        """What critics gain on the rows that they were fitted on, nats; at least 0."""
        return max(0.0, self.fitted - self.value)


@dataclass(frozen=True)
class _Fold:
    """What one fold found: the bound on the fold, and on the rows that it was fitted on."""

    held_out: _Value
    fitted: _Value


def draw_folds(evidence: Evidence, rows: Particles) -> list[Pair]:
    """The rows in folds, in their order, each with fresh samples of q_0 given its contexts."""
    return [
        (Seen.by(evidence, part), _draw(evidence, part, fold))
        for fold, part in enumerate(rows.chunks(math.ceil(len(rows) / _FOLDS)))
    ]


def cross_validated_folds(parts: Sequence[Evidence]) -> list[Pair]:
    """The rows that each model was fitted without, with fresh samples of that model."""
    found = []
    for fold, part in enumerate(parts):
        rows = part.unweighted
        if rows is not None and len(rows):
            found.append((Seen.by(part, rows), _draw(part, rows, fold)))
    return found


def cross_fit(evidence: Evidence, folds: Sequence[Pair]) -> CrossFitted:
    """The bound of critics fitted without each fold, evaluated on it, and averaged."""
    found = [_fold(evidence, folds, number) for number in range(len(folds))]
    return CrossFitted(
        value=sum(fold.held_out.value for fold in found) / len(found),
        se=math.hypot(*(fold.held_out.se for fold in found)) / len(found),
        fitted=sum(fold.fitted.value for fold in found) / len(found),
        capped=max(fold.held_out.capped for fold in found),
    )


def _draw(evidence: Evidence, rows: Particles, fold: int) -> Seen:
    count = min(max(len(rows), _LEAST_DRAWS // _FOLDS), _MOST_DRAWS // _FOLDS)
    context = None if rows.context is None else rows.draw(count, evidence.stream(f"context {fold}")).context
    return Seen.by(evidence, evidence.draw(count, context=context, part=fold))


def _fold(evidence: Evidence, seen: Sequence[Pair], number: int) -> _Fold:
    """Critics fitted without the fold of that number, evaluated on it."""
    others = [pair for other, pair in enumerate(seen) if other != number]
    rows, draws = (_shuffled(evidence, [pair[side] for pair in others], number) for side in (0, 1))
    (fit, choice), (fit_draws, choice_draws) = _cut_off(rows), _cut_off(draws)
    seed = int(torch.randint(2**31 - 1, (), generator=evidence.stream(f"critics {number}")))
    mixtures = [Mixture(fit, count, seed=seed) for count in affordable_components(fit)]
    critics = _critics(evidence, fit, fit_draws, seed, number)
    chosen_on = _told(critics, mixtures, choice), _told(critics, mixtures, choice_draws)
    bounds = [*_by_ratio(*chosen_on), *map(_witness, range(len(mixtures)))]
    chosen = max(bounds, key=lambda bound: _prospect(bound(*chosen_on)))
    return _Fold(
        held_out=chosen(*(_told(critics, mixtures, part) for part in seen[number])),
        fitted=chosen(*(_told(critics, mixtures, part) for part in (fit, fit_draws))),
    )


def _prospect(value: _Value) -> float:
    """What a bound may be expected to prove: noise is dearer than a little sharpness."""
    return value.value - value.se if math.isfinite(value.value) else -math.inf


def _shuffled(evidence: Evidence, parts: Sequence[Seen], number: int) -> Seen:
    joined = Seen.joined(parts)
    order = torch.randperm(len(joined), generator=evidence.stream(f"stacking {number}"))
    return joined.rows(order.to(joined.x.device))


def _cut_off(rows: Seen) -> Pair:
    """Rows to fit critics on, and rows to put them together on."""
    count = int((1 - _STACKING_SHARE) * len(rows))
    return rows.rows(slice(0, count)), rows.rows(slice(count, None))


def _critics(evidence: Evidence, rows: Seen, draws: Seen, seed: int, number: int) -> list[Critic]:
    """Critics that stop where they begin to learn noise."""
    p, q = rows.columns(), draws.columns()
    network = fit_network(p, q, generator=evidence.stream(f"network {number}"))
    return [fit_trees(p, q, seed=seed), network]


def _told(critics: Sequence[Critic], mixtures: Sequence[Mixture], seen: Seen) -> _Told:
    columns = seen.columns()
    gains = [mixture.gain(seen) for mixture in mixtures]
    cut = [gain.clamp(_FLOOR_NATS, -_FLOOR_NATS).nan_to_num() for gain in gains]
    together = torch.stack([*(h(columns).to(seen.log_q0) for h in critics), *cut], dim=1)
    return _Told(together, torch.stack(gains, dim=1) if gains else together[:, :0])


def _by_ratio(rows: _Told, draws: _Told) -> list[Bound]:
    """The bound of the best combination of the critics on rows that they were not fitted on, at each ceiling.

    Its shift c is that at which E_q[e^{h - c}] = 1 on these draws.
    """
    weights, offset = stack(rows.critics, draws.critics)

    def combined(told: _Told) -> Tensor:
        h: Tensor = told.critics @ weights.to(told.critics) + offset
        return h

    shift = float(torch.logsumexp(combined(draws), 0)) - math.log(len(draws.critics))
    return [_donsker_varadhan(combined, shift, ceiling) for ceiling in _CEILINGS_NATS]


def _donsker_varadhan(h: Callable[[_Told], Tensor], shift: float, ceiling: float) -> Bound:
    """The bound of h less its shift c, cut at a ceiling."""

    def evaluate(rows: _Told, fresh: _Told) -> _Value:
        of_p = (h(rows) - shift).clamp(_FLOOR_NATS, ceiling)
        ratio = (h(fresh) - shift).clamp(_FLOOR_NATS, ceiling).exp()
        value = float(of_p.mean() - ratio.mean()) + 1
        capped = float((of_p >= ceiling).double().mean()) if ceiling == max(_CEILINGS_NATS) else 0.0
        return _Value(value, math.hypot(standard_error(of_p), standard_error(ratio)), capped)

    return evaluate


def _witness(place: int) -> Bound:
    """A mixture's witness bound; it needs no ceiling, however large the gain."""

    def evaluate(rows: _Told, fresh: _Told) -> _Value:
        del fresh
        gain = rows.gains[:, place]
        return _Value(float(gain.mean()), standard_error(gain))

    return evaluate

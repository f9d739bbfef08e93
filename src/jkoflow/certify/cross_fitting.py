r"""A lower bound of KL(p_0‖q_0) by critics that are fitted on some rows and evaluated on others.

    KL >= E_p[log R] - E_q[R] + 1 =: D(R)    for every R > 0; D on rows new to R
    R = s_0 + s_1 e^{h - c} + sum_j s_j r_j/q_0,    E_q[R] <= 1 + s_1 (E_q[e^{h - c}] - 1)

The first is the bound of Nguyen, Wainwright & Jordan (2010), arXiv 0809.0853: Donsker & Varadhan's without
its logarithm. h is a critic that tells rows from draws of q_0, and r_j are witnesses, densities whose ratio
to q_0 has at most the mean 1 under q_0, so that no draw is needed for them and their gain has no ceiling.
With s_1 = 1 D is the bound by a critic alone, with s_j = 1 that by a witness alone.

The rows are cut in folds: on all but one critics and witnesses are fitted and put together, on that one they
are evaluated, and the values are averaged. log R is bounded from below by log s_0 and e^{h - c} is cut from
above; the one-sided interval is the normal one, and where a few rows have a large gain, the mean of most
samples is below the truth. Witnesses may learn from the rows of the fit too: they
stay normalised densities whatever they were fitted to.

Source: theory, "Beyond the paper", the bracket.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from scipy.optimize import brentq
from torch import Tensor

from jkoflow.certify.copies import distinct_rows
from jkoflow.certify.critic import Critic, fit_network, fit_trees
from jkoflow.certify.evidence import Evidence
from jkoflow.certify.seen import Seen
from jkoflow.certify.stacking import mixing_shares, stack
from jkoflow.certify.witness import Witness, fit_witnesses, gain
from jkoflow.flow.likelihood import standard_error
from jkoflow.particles import Particles

__all__ = ["CrossFitted", "cross_fit", "cross_validated_folds", "draw_folds"]

_LEAST_DRAWS = 2048
"""The folds together have at least so many fresh samples of q_0, however few the rows are."""

_MOST_DRAWS = 10_000
"""The folds together have at most so many fresh samples of q_0."""

_FOLDS = 5
"""The rows are cut in so many parts: critics are fitted on all but one and evaluated on that one."""

_MOST_STACKED_NATS = 10.0
"""The gains of witnesses are cut at plus and minus so many nats before they are stacked with critics."""

_CEILING_NATS = 4.0
"""h - c is cut from above there, so that no single draw of q_0 decides an average: e^4 is 55."""

_CAPPED_NATS = 7.0
"""Where critics see a log-ratio above this and no witness does, nobody can say how far above it is."""

_STACKING_SHARE = 0.2
"""So large a share of the fitted rows is kept for putting critics and witnesses together."""

Pair = tuple[Seen, Seen]
"""Held-out rows, and fresh samples of q_0."""


@dataclass(frozen=True)
class _Value:
    """What a bound is worth.

    Arguments:
        value: Before its interval, nats.
        se: Its standard error.
        capped: Share of rows whose log-ratio is above seven nats by the critics, and no witness says how far.
    """

    value: float
    se: float
    capped: float


@dataclass(frozen=True)
class _Told:
    """What fitted critics and witnesses say of some rows, computed once.

    Arguments:
        critics: h_1, ..., h_k of each row, the gains of the witnesses among them, cut; shape `(n, k)`.
        gains: log r - log q_0 of each row for each witness r, shape `(n, m)`.
    """

    critics: Tensor
    gains: Tensor


@dataclass(frozen=True)
class _Bound:
    """D(R), put together on rows that neither critics nor witnesses were fitted on.

    Arguments:
        weights: Of the critics in h, shape `(k,)`.
        shift: What is added to that, so that E_q[e^{h - c}], cut, is 1 on the draws of that part.
        shares: s_0, s_1 and those of the witnesses, shape `(2 + m,)`.
    """

    weights: Tensor
    shift: float
    shares: Tensor

    @classmethod
    def of(cls, rows: _Told, draws: _Told) -> _Bound:
        """The bound of the best combination by these rows and draws."""
        weights = stack(rows.critics, draws.critics)
        shift = _shift(draws.critics @ weights.to(draws.critics))
        apart = cls(weights, shift, torch.ones(2 + rows.gains.shape[1], dtype=torch.float64))
        return replace(apart, shares=mixing_shares(apart.log_terms(rows)))

    def log_terms(self, told: _Told) -> Tensor:
        """The logarithms of 1, e^{h - c} and each r/q_0 at each row, shape `(n, 2 + m)`."""
        h = self.critic(told).clamp_max(_CEILING_NATS)
        return torch.cat([torch.zeros_like(h)[:, None], h[:, None], told.gains], dim=1)

    def critic(self, told: _Told) -> Tensor:
        """h - c of each row, not cut, shape `(n,)`."""
        h: Tensor = told.critics @ self.weights.to(told.critics) + self.shift
        return h

    def __call__(self, rows: _Told, draws: _Told) -> _Value:
        """D on rows of p and draws of q_0."""
        log_ratio = torch.logsumexp(self.log_terms(rows) + self.shares.log().to(rows.gains), dim=1)
        above = self.critic(rows) >= _CAPPED_NATS
        share = float(self.shares[1])
        ratio = share * self.critic(draws).clamp_max(_CEILING_NATS).exp()
        return _Value(
            value=float(log_ratio.mean() - ratio.mean()) + share,
            se=math.hypot(standard_error(log_ratio), standard_error(ratio)),
            capped=float((above & (log_ratio <= _CAPPED_NATS)).double().mean()),
        )


@dataclass(frozen=True)
class CrossFitted:
    """What critics find, averaged over the folds.

    Arguments:
        value: D on rows new to the critics, nats.
        se: Its standard error.
        fitted: D on the rows that they were fitted on.
        capped: Largest share of a fold's rows whose log-ratio is above what critics and witnesses can tell.
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
        rows = None if part.unweighted is None else distinct_rows(part.unweighted)
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
    critics = _critics(evidence, fit, fit_draws, seed, number)
    witnesses = _witnesses(evidence, fit, choice, seed)

    def asked(pair: Pair) -> tuple[_Told, _Told]:
        return _asked(critics, witnesses, pair[0]), _asked(critics, witnesses, pair[1])

    bound = _Bound.of(*asked((choice, choice_draws)))
    return _Fold(held_out=bound(*asked(seen[number])), fitted=bound(*asked((fit, fit_draws))))


def _shift(h: Tensor) -> float:
    """-c with which e^{h - c}, cut from above, has the mean 1, so that no far draw decides it alone."""

    def excess(shift: float) -> float:
        return float((h + shift).clamp_max(_CEILING_NATS).exp().mean()) - 1

    least = math.log(len(h)) - float(torch.logsumexp(h, 0))
    return float(brentq(excess, least - 1e-6, max(least, -float(h.min())) + 1e-6))


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


def _witnesses(evidence: Evidence, rows: Seen, others: Seen, seed: int) -> list[Witness]:
    """Witnesses fitted to these rows and to those of the fit; none where the law depends on a context."""
    if rows.context is not None:
        return []
    known = [] if evidence.fitted_rows is None else [evidence.fitted_rows.to(rows.x)]
    return fit_witnesses(torch.cat([rows.x, *known]), others, seed=seed)


def _asked(critics: Sequence[Critic], witnesses: Sequence[Witness], seen: Seen) -> _Told:
    columns = seen.columns()
    gains = [gain(witness, seen) for witness in witnesses]
    cut = [part.clamp(-_MOST_STACKED_NATS, _MOST_STACKED_NATS).nan_to_num() for part in gains]
    together = torch.stack([*(h(columns).to(seen.log_q0) for h in critics), *cut], dim=1)
    return _Told(together, torch.stack(gains, dim=1) if gains else together[:, :0])

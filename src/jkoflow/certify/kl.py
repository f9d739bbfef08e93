r"""How far the model is from the data, from below: the sharpest of several proven bounds on KL(p_0‖q_0).

    KL(p‖q) >= E_p[h] - c - E_q[e^{h - c}] + 1     for every h, c (Donsker-Varadhan, without its logarithm)
    KL(p_0‖q_0) >= E_p[log r - log q_0]            for every normalised density r (witness bound)

p_0 by held-out rows, q_0 by fresh samples; critics see both as they are, or both pushed to the noise, where
the KL is the same (Lemma 5.1). The rows are cut in two: on one half the candidates are fitted and one is
chosen, on the other the chosen one is evaluated; then the halves change places, and the two values are
averaged. What is averaged is cut from above, so the one-sided interval is the normal one.

Source: theory, "Beyond the paper", bracket from below and witness bound; the form without logarithm is that
of Nguyen, Wainwright & Jordan (2010), arXiv 0809.0853.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.stats import norm
from sklearn.mixture import GaussianMixture
from torch import Tensor

from jkoflow.certify.claim import Claim, KLBracket, undecided
from jkoflow.certify.critic import fit_critic
from jkoflow.certify.evidence import GIVE_ROWS, LEVEL, Evidence
from jkoflow.likelihood import log_prob, standard_error
from jkoflow.particles import Particles

__all__ = ["bracket"]

_LEAST_ROWS, _MOST_ROWS = 100, 20_000
_DRAWS = 8192
_FLOOR_NATS, _CEILING_NATS = -10.0, 4.0
"""h - c is cut there, so that no row decides the averages; the bound holds for the cut h as for any."""
_SCALES: tuple[tuple[float, ...], ...] = ((), (2.0,), (6.0,), (2.0, 8.0))
_COMPONENTS = (5, 15)
_LEAST_ROWS_OF_A_COMPONENT = 20
_CHOICE_SHARE = 0.75
_SOURCE = "Donsker & Varadhan; Nguyen, Wainwright & Jordan (2010); witness bound"


@dataclass(frozen=True)
class _Value:
    """A lower bound's value before its interval, and its standard error, nats."""

    value: float
    se: float


@dataclass(frozen=True)
class _Seen:
    """Rows with what a critic sees of them in either space, context included, shapes `(n, k)`."""

    rows: Particles
    data: Tensor
    latent: Tensor

    @classmethod
    def by(cls, evidence: Evidence, rows: Particles) -> _Seen:
        """`rows`, and the same pushed to the noise."""
        image = evidence.flow.push(rows.x, rows.context)
        context = [] if rows.context is None else [rows.context]
        return cls(rows, torch.cat([rows.x, *context], dim=1), torch.cat([image, *context], dim=1))


Bound = Callable[[_Seen, _Seen], _Value]
"""Evaluates a fitted bound on rows, and on draws of q_0, none of which it was fitted on."""


def bracket(evidence: Evidence) -> tuple[KLBracket, Claim]:
    """The lower end of KL(p_0‖q_0) in nats, and the claim that tells it."""
    statement = "KL(p_0‖q_0) is at least this"
    rows = evidence.held_out
    if rows is None or len(rows) < _LEAST_ROWS:
        count = 0 if rows is None else len(rows)
        return KLBracket(level=LEVEL), undecided(
            statement,
            _SOURCE,
            "lower",
            why=f"{count} held-out rows, of {_LEAST_ROWS} that are needed",
            remedy=GIVE_ROWS,
            unit="nats",
            rows=count,
        )
    order = torch.randperm(len(rows), generator=evidence.stream("halves"))[:_MOST_ROWS]
    halves = [rows.rows(part.to(rows.x.device)) for part in order.chunk(2)]
    found = [_evaluated(evidence, halves[fold], halves[1 - fold], fold) for fold in (0, 1)]
    value, error = (found[0].value + found[1].value) / 2, math.hypot(found[0].se, found[1].se) / 2
    lower = max(0.0, value - float(norm.ppf(LEVEL)) * error)
    claim = Claim(
        statement,
        _SOURCE,
        "lower",
        "holds",
        measured=value,
        interval=(lower, math.inf),
        level=LEVEL,
        unit="nats",
        rows=len(order),
    )
    return KLBracket(lower=lower, level=LEVEL), claim


def _evaluated(evidence: Evidence, half: Particles, other: Particles, fold: int) -> _Value:
    """The bound that was fitted and chosen on one half, on the other."""
    bound = _chosen(evidence, half, fold)
    return bound(_Seen.by(evidence, other), _draw(evidence, other, 100 + fold))


def _chosen(evidence: Evidence, half: Particles, fold: int) -> Bound:
    """The bound that is largest on a quarter of the half, fitted on the rest of it."""
    count = int(_CHOICE_SHARE * len(half))
    fitted_on, chosen_on = (
        _Seen.by(evidence, half.rows(part)) for part in (slice(0, count), slice(count, None))
    )
    drawn = _draw(evidence, fitted_on.rows, fold)
    candidates = [
        *(_witness(evidence, fitted_on, n, fold) for n in _COMPONENTS if _affords(fitted_on.rows, n)),
        *(_critic(evidence, fitted_on, drawn, scales, fold, space="data") for scales in _SCALES),
        *(_critic(evidence, fitted_on, drawn, scales, fold, space="latent") for scales in _SCALES),
    ]
    fresh = _draw(evidence, chosen_on.rows, 50 + fold)
    return max(candidates, key=lambda bound: bound(chosen_on, fresh).value)


def _affords(rows: Particles, n_components: int) -> bool:
    return rows.context is None and len(rows) >= n_components * (_LEAST_ROWS_OF_A_COMPONENT + rows.dim)


def _draw(evidence: Evidence, rows: Particles, part: int) -> _Seen:
    """Fresh samples of q_0, given contexts of `rows` where there are any."""
    context = None if rows.context is None else rows.draw(_DRAWS, evidence.stream(f"context {part}")).context
    return _Seen.by(evidence, evidence.draw(_DRAWS, context=context, part=part))


def _critic(
    evidence: Evidence,
    rows: _Seen,
    drawn: _Seen,
    scales: tuple[float, ...],
    fold: int,
    *,
    space: Literal["data", "latent"],
) -> Bound:
    """A critic between rows and draws, in data space or in latent space."""

    def columns(seen: _Seen) -> Tensor:
        return seen.latent if space == "latent" else seen.data

    of_q, source = columns(drawn), evidence.stream(f"critic {fold} {space} {scales}")
    h = fit_critic(columns(rows), of_q, scales=scales, generator=source)
    shift = torch.logsumexp(h(of_q).double(), 0) - math.log(len(of_q))

    def evaluate(fresh: _Seen, fresh_drawn: _Seen) -> _Value:
        of_p = _cut(h(columns(fresh)).double() - shift)
        ratio = _cut(h(columns(fresh_drawn)).double() - shift).exp()
        value = float(of_p.mean() - ratio.mean()) + 1
        return _Value(value, math.hypot(standard_error(of_p), standard_error(ratio)))

    return evaluate


def _cut(h: Tensor) -> Tensor:
    return h.clamp(_FLOOR_NATS, _CEILING_NATS)


def _witness(evidence: Evidence, rows: _Seen, n_components: int, fold: int) -> Bound:
    """A Gaussian mixture as another density of the rows: what it explains better proves a gap.

    Its normaliser is known, so nothing is drawn. Gains are cut from above alone, which lowers the bound.
    """
    seed = int(torch.randint(2**31 - 1, (), generator=evidence.stream(f"mixture {fold} {n_components}")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a mixture that has not converged is a witness too
        mixture = GaussianMixture(n_components, random_state=seed, reg_covar=1e-4).fit(_numbers(rows.rows.x))

    def evaluate(fresh: _Seen, fresh_drawn: _Seen) -> _Value:
        del fresh_drawn
        theirs = torch.as_tensor(mixture.score_samples(_numbers(fresh.rows.x)))
        ours = log_prob(evidence.flow, fresh.rows.x, fresh.rows.context).cpu()
        gain = (theirs - ours).clamp_max(20 * _CEILING_NATS)
        return _Value(float(gain.mean()), standard_error(gain))

    return evaluate


def _numbers(x: Tensor) -> np.ndarray:
    return np.asarray(x.double().cpu().numpy())

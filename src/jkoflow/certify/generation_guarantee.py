r"""What the theorems guarantee of the samples, from step sizes and residuals: KL(p_0‖q_0) and TV(p_0, q_0).

    Corollary 5.2:  KL <= (9/(2 gamma)) (eps/lambda)²,  N > (8/(gamma lambda)) log(lambda W2(p_0, q)/eps)
    Theorem 4.3:    KL <= W2²(p_{N-1}, q)/(2 gamma_N) + eps_N²/lambda,  W2²(p_{N-1}, q) bounded by (35)
    sharper:        KL <= (W2(p_{N-1}, q) + gamma_N eps_N)²/(2 gamma_N (2 + gamma_N lambda)),
    TV(p_0, q_0) <= sqrt(KL/2)

by KL(p_0‖q_0) = KL(p_N‖q) (Lemma 5.1). The first asks for equal steps with gamma lambda <= 2 and enough of
them; the other two hold for steps of any finite size, from W2(p_k, q) after the last free step among them. A
flow that ends in a free step, such as a closing, has bounds on KL(p_n‖q) before it, and none of what the free
step leaves: eps_N would be all of it, of which samples show a part. The eps_n are a plug-in, and so is every
bound here. Held against it is a lower bound of the KL: E_{p_N}[log g - log q] for the Gaussian g of one half
of the pushed rows, on the other half. It can show that a plug-in is too small; that a bound holds rests on
the plug-in alone.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, Lemma 5.1 and Corollary 5.2, (39)-(40), with Pinsker's
inequality.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from scipy.stats import norm
from torch import Tensor

from jkoflow import bounds
from jkoflow.certify.claim import Claim, Says, undecided
from jkoflow.certify.evidence import LEVEL, Evidence
from jkoflow.certify.step_errors import PLUG_IN, UNKNOWN, StepError, first_of_run, last_finite
from jkoflow.certify.trajectory import Missing, Trajectory, convexity, follow
from jkoflow.certify.w2_to_base import W2Bracket, brackets
from jkoflow.errors import InputError
from jkoflow.flow.likelihood import standard_error
from jkoflow.laws import Gaussian, Law

__all__ = ["claims"]

_KL = "KL(p_0‖q_0) is at most the bound of {}"
_TV = "TV(p_0, q_0) is at most the bound of {}"
_COROLLARY, _UNEQUAL, _SHARPER = "Corollary 5.2", "Theorem 4.3, unequal steps", "the sharper Theorem 4.3"
_SOURCES = {
    _COROLLARY: "Cheng, Lu, Tan & Xie (2024), Corollary 5.2, eq. (39) and (40)",
    _UNEQUAL: "Cheng, Lu, Tan & Xie (2024), Lemma 5.1 and Theorem 4.3, eq. (34), unequal steps",
    _SHARPER: "a-posteriori: Lemma 5.1 and the sharper Theorem 4.3 of docs/theory.md",
}
_KL_BEFORE = "KL(p_n‖q) before the free last step is at most the bound of {}"
_FREE_LAST = "the flow ends in a free step, of which the theorem says nothing; it speaks of the steps before"
_LARGER = "give more held-out rows: the true eps_n is larger than its plug-in"
_SEE_KL = "go by the bracket of the KL"
_ALL_FREE = "every step is free, and the theorem speaks of proximal steps of finite size"
_UNSEEN = "eps_n of a block is not known"
_EQUAL = 1e-9
"""Step sizes count as equal, as Corollary 5.2 asks, where they differ by no more than this relative to
themselves."""

_LEAST_SPREAD = 1e-6
"""So many mean variances are added to each variance of a fitted Gaussian, so that it has a density on any
rows."""

Steps = Sequence[StepError]


@dataclass(frozen=True)
class _Held:
    """What the bounds are held against: a lower bound of the KL, and its lower end at `LEVEL`, nats."""

    value: float
    lower: float
    rows: int


def claims(evidence: Evidence, steps: Sequence[StepError]) -> list[Claim]:
    """KL and TV by Corollary 5.2, by Theorem 4.3 with the steps as they are, and by its sharper form.

    Arguments:
        evidence: The flow with held-out rows.
        steps: gamma_n and eps_n of every block.
    """
    path, lam = follow(evidence), convexity(evidence)
    if isinstance(path, Missing):
        return [_undecided(path)]
    if isinstance(lam, Missing):
        return [_undecided(lam)]
    steps = list(steps)
    last = last_finite(steps)
    if not last:
        return [_undecided(Missing(_ALL_FREE, _SEE_KL), _UNEQUAL)]
    first = first_of_run(steps, last)
    start = brackets(evidence, path.positions[[first, -1]])[0]
    held = _held(evidence.flow.law, path.positions[last])
    run = steps[first:last]
    gammas, errors = [step.gamma for step in run], [step.eps for step in run]
    ends_free = last < len(steps)
    corollary = [] if ends_free else _corollary(steps, start, held, lam)
    free = [_undecided(Missing(_FREE_LAST, _SEE_KL), _UNEQUAL)] if ends_free else []
    if math.isnan(bounds.forward_kl(start.upper, gammas, errors, lam)):
        return [*corollary, *free, *([] if free else [_undecided(Missing(_UNSEEN, UNKNOWN), _UNEQUAL)])]
    before = bounds.sharp_w2(start.upper, gammas[:-1], errors[:-1], lam) if len(run) > 1 else start.upper
    found = [
        (_UNEQUAL, bounds.forward_kl(start.upper, gammas, errors, lam)),
        (_SHARPER, bounds.sharp_last_step_kl(before, gammas[-1], lam, errors[-1])),
    ]
    given = f"{PLUG_IN}; W2(p_{first}, q) at most {start.upper:.4g}, from samples"
    if ends_free:
        lowered = _lowered(path, last)
        return [*free, *(_before(name, nats, held, given, lowered, last) for name, nats in found)]
    return [*corollary, *(claim for name, nats in found for claim in _pair(name, nats, held, given))]


def _undecided(missing: Missing, name: str = _COROLLARY) -> Claim:
    return undecided(_KL.format(name), _SOURCES[name], "plug-in", why=missing.why, remedy=missing.remedy)


def _largest(steps: Steps) -> float:
    """The largest eps_n; not a number where one is not known."""
    errors = [step.eps for step in steps]
    return math.nan if any(math.isnan(eps) for eps in errors) else max(errors)


def _corollary(steps: Steps, start: W2Bracket, held: _Held, lam: float) -> list[Claim]:
    """Corollary 5.2, or what of its hypotheses is not met."""
    gamma, eps = steps[0].gamma, _largest(steps)
    bound, why, remedy = math.nan, "", ""
    if any(not math.isclose(step.gamma, gamma, rel_tol=_EQUAL) for step in steps) or math.isinf(gamma):
        why, remedy = "the steps are not of one finite size", f"see {_UNEQUAL}, which needs no equal steps"
    elif gamma * lam > 2:
        why = f"gamma lambda = {gamma * lam:.3g} is above 2 (Assumption 5)"
        remedy = f"see {_UNEQUAL}, which holds for every gamma; or fit with gamma <= {2 / lam:.3g}"
    elif math.isnan(eps):
        why, remedy = _UNSEEN, UNKNOWN
    elif not eps > 0:
        why, remedy = "eps is 0, where no number of blocks is enough", f"see {_UNEQUAL}"
    else:
        bound = bounds.generation_kl(gamma, lam, eps)
        needed = bounds.blocks_needed(start.upper, gamma, lam, eps)
        if len(steps) < needed:
            why = f"{len(steps)} blocks, of {needed} that it asks for at W2(p_0, q) <= {start.upper:.3g}"
            remedy = f"fit with max_blocks = {needed} or more, or with larger steps (gamma)"
    if not why:
        return _pair(_COROLLARY, bound, held, f"{PLUG_IN}, the largest of them {eps:.3g}")
    known = {"rows": held.rows, "space": "latent"}
    nats, share = (None, None) if math.isnan(bound) else (bound, _tv(bound))
    return [
        undecided(
            text.format(_COROLLARY),
            _SOURCES[_COROLLARY],
            "plug-in",
            why=why,
            remedy=remedy,
            bound=value,
            unit=unit,
            **known,
        )
        for text, value, unit in ((_KL, nats, "nats"), (_TV, share, "total variation"))
    ]


def _lowered(path: Trajectory, last: int) -> float:
    """KL(p_n‖q) - KL(p_N‖q) is at least this, one-sided at `LEVEL`, n = `last`: what free steps take away."""
    change = path.objective[last] - path.objective[-1]
    return float(change.mean()) - float(norm.ppf(LEVEL)) * standard_error(change)


def _before(name: str, nats: float, held: _Held, given: str, lowered: float, block: int) -> Claim:
    """The bound on the KL before the free last step, held against what is seen there."""
    claim = _against(_KL_BEFORE.format(name), name, nats, held, given)
    return replace(claim, block=block, says=(Says("kl", high=nats - lowered),))


def _against(statement: str, name: str, nats: float, held: _Held, given: str) -> Claim:
    """A bound on a KL, held against what was seen of it."""
    fails = held.lower > nats
    return Claim(
        statement,
        _SOURCES[name],
        "plug-in",
        "fails" if fails else "holds",
        held.value,
        interval=(held.lower, math.inf),
        level=LEVEL,
        bound=nats,
        unit="nats",
        space="latent",
        assumption=given,
        rows=held.rows,
        remedy=_LARGER if fails else "",
        says=(Says("kl", high=nats),),
    )


def _pair(name: str, nats: float, held: _Held, given: str) -> list[Claim]:
    """The bound on the KL and, by Pinsker's inequality, on the total variation."""
    by_kl = _against(_KL.format(name), name, nats, held, given)
    verdict, remedy = by_kl.verdict, by_kl.remedy
    share = _tv(nats)
    if verdict == "holds" and share >= 1:
        verdict, remedy = (
            "undecided",
            "go by the bracket of the KL: from a bound of 2 nats on, Pinsker's inequality says nothing",
        )
    by_tv = Claim(
        _TV.format(name),
        _SOURCES[name],
        "plug-in",
        verdict,
        bound=share,
        unit="total variation",
        space="latent",
        assumption=given,
        rows=held.rows,
        remedy=remedy,
        says=(Says("kl", high=nats), Says("tv", high=share)),
    )
    return [by_kl, by_tv]


def _tv(nats: float) -> float:
    return min(1.0, math.sqrt(nats / 2))


def _held(base: Law, x: Tensor) -> _Held:
    """E[log g - log q] over pushed rows x, shape `(m, d)`: g fitted on one half, the mean over the other."""
    halves = x.chunk(2)
    gains = torch.cat(
        [_gaussian(a).log_prob(b) - base.log_prob(b) for a, b in (halves, reversed(list(halves)))]
    )
    value = float(gains.mean())
    return _Held(value, max(0.0, value - float(norm.ppf(LEVEL)) * standard_error(gains)), len(x))


def _gaussian(x: Tensor) -> Gaussian:
    """The Gaussian of the rows' moments, with a little variance where they have none."""
    centred = x - x.mean(dim=0)
    covariance = centred.T @ centred / len(x)
    spread = float(covariance.trace()) / x.shape[1]
    if not spread > 0:
        raise InputError("pushed rows: expected rows that differ, got copies of one; look at the flow")
    eye = torch.eye(x.shape[1], dtype=x.dtype)
    return Gaussian(x.mean(dim=0), (covariance + covariance.T) / 2 + _LEAST_SPREAD * spread * eye)

r"""Whether the laws along the blocks approach the base as the convergence theorem says.

    W2²(p_n, q) <= a_1…a_n W2²(p_0, q) + Σ_k a_k…a_n (2 gamma_k/lambda) eps_k²
    W2(p_n, q)  <= c_1…c_n W2(p_0, q) + Σ_k c_k…c_n gamma_k eps_k

with a_k = 1/(1 + gamma_k lambda/2) and c_k = 1/(1 + gamma_k lambda),

and the two bounds of KL(p_n‖q) that go with them, for any unequal gamma_k > 0. A free step is none of them:
its eps_k alone would be the bound, of which samples show a part. The theorem is held against the steps before
the first free one, and anew, from W2(p_k, q) as measured there, against those between free steps.
W2(p_n, q) lies in a bracket, in high dimension a wide one; of KL(p_n‖q) its decrease from block n to the
last is known without the entropy of the data, and is below it. The eps_k are a plug-in, so no verdict here
is a theorem's: one that fails says that the plug-in is too small, or that a block is no proximal step.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, Theorem 4.3 with (34) unrolled; the sharper form is
a-posteriori (docs/theory.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from scipy.stats import norm
from torch import Tensor

from jkoflow import bounds
from jkoflow.certify.claim import Claim, Interval, Says, Verdict, undecided, verdict_below
from jkoflow.certify.evidence import LEVEL, Evidence
from jkoflow.certify.step_errors import PLUG_IN, UNKNOWN, StepError, first_of_run, last_finite
from jkoflow.certify.trajectory import Missing, Trajectory, convexity, follow
from jkoflow.certify.w2_to_base import W2Bracket, brackets
from jkoflow.flow.likelihood import standard_error

__all__ = ["claims"]

_DECREASE = "the block does not raise KL(.‖q), in nats"
_W2 = "W2(p_n, q) after the block is at most the bound of {}"
_KL = "KL(p_n‖q) - KL(p_N‖q) after the block is at most the bound of {} on KL(p_n‖q)"
_PAPER, _SHARPER = "Theorem 4.3", "the sharper Theorem 4.3"
_SOURCES = {
    _PAPER: "Cheng, Lu, Tan & Xie (2024), Theorem 4.3, eq. (34) and (35), unequal steps",
    _SHARPER: "a-posteriori: the sharper Theorem 4.3 of docs/theory.md",
}
_ALL_FREE = "every step is free, and the theorem speaks of proximal steps of finite size"
_DESCENT = "Cheng, Lu, Tan & Xie (2024), eq. (17) and (25): p_{n-1} competes in the step that makes p_n"
_TOO_SMALL = "give more held-out rows: eps_n is larger than its plug-in, or the block is no proximal step"
_NARROWER = "give more held-out rows; in many dimensions W2 from samples is known only roughly"

Steps = Sequence[StepError]
W2Bound = Callable[[float, Steps, float], float]
"""Bound on W2(p_n, q) from W2(p_0, q), the steps 1, …, n and lambda."""


def claims(evidence: Evidence, steps: Sequence[StepError]) -> list[Claim]:
    """The decrease of KL(.‖q) by each block, and W2(p_n, q) and KL(p_n‖q) against the bounds, two each.

    Arguments:
        evidence: The flow with held-out rows.
        steps: gamma_n and eps_n of every block.
    """
    path, lam = follow(evidence), convexity(evidence)
    if isinstance(path, Missing):
        return [_undecided(path)]
    decreases = _decreases(path)
    if isinstance(lam, Missing):
        return [*decreases, _undecided(lam)]
    if not last_finite(steps):
        return [*decreases, _undecided(Missing(_ALL_FREE, "go by the bracket of the KL"))]
    measured = brackets(evidence, path.positions)
    return [
        *decreases,
        *_w2_claims(path, steps, measured, lam),
        *_kl_claims(path, steps, measured, lam),
    ]


def _undecided(missing: Missing) -> Claim:
    statement = _W2.format(_PAPER)
    return undecided(statement, _SOURCES[_PAPER], "plug-in", why=missing.why, remedy=missing.remedy)


def _decreases(path: Trajectory) -> list[Claim]:
    """KL(p_n‖q) - KL(p_{n-1}‖q) of every block, with intervals that hold together."""
    changes = path.objective.diff(dim=0)
    level = 1 - (1 - LEVEL) / len(changes)
    return [_decrease(change, number, level) for number, change in enumerate(changes, start=1)]


def _decrease(change: Tensor, number: int, level: float) -> Claim:
    mean, interval = _mean(change, level)
    verdict = verdict_below(interval, 0.0)
    remedy = {
        "holds": "",
        "undecided": "give more held-out rows, if it matters: near q there is little left to decrease",
        "fails": f"fit again with max_blocks = {number - 1}, which ends before this block"
        if number > 1
        else "fit again with smaller steps (gamma)",
    }[verdict]
    return Claim(
        _DECREASE,
        _DESCENT,
        "plug-in",
        verdict,
        mean,
        interval=interval,
        level=level,
        bound=0.0,
        unit="nats",
        space="latent",
        rows=len(change),
        block=number,
        remedy=remedy,
    )


def _mean(values: Tensor, level: float) -> tuple[float, Interval]:
    mean, half = float(values.mean()), float(norm.ppf((1 + level) / 2)) * standard_error(values)
    return mean, (mean - half, mean + half)


def _paper_w2(start: float, steps: Steps, lam: float) -> float:
    return math.sqrt(bounds.forward_w2_squared(start, *_columns(steps), lam)) if steps else start


def _sharp_w2(start: float, steps: Steps, lam: float) -> float:
    return bounds.sharp_w2(start, *_columns(steps), lam) if steps else start


def _paper_kl(start: float, steps: Steps, lam: float) -> float:
    return bounds.forward_kl(start, *_columns(steps), lam)


def _sharp_kl(start: float, steps: Steps, lam: float) -> float:
    before = _sharp_w2(start, steps[:-1], lam)
    return bounds.sharp_last_step_kl(before, steps[-1].gamma, lam, steps[-1].eps)


def _columns(steps: Steps) -> tuple[list[float], list[float]]:
    return [step.gamma for step in steps], [step.eps for step in steps]


def _given(start: W2Bracket, number: int) -> str:
    """What a bound from W2(p_k, q), k = `number`, rests on."""
    ends = f"between {start.lower:.4g} and {start.upper:.4g}, the bound at the former"
    return f"{PLUG_IN}; W2(p_{number}, q) {ends}"


def _w2_claims(path: Trajectory, steps: Steps, measured: Sequence[W2Bracket], lam: float) -> list[Claim]:
    """The claims after every step of finite size, from the start of its run."""
    apart = f"two samples of q are {measured[0].chance:.3g} apart by chance"
    found = []
    for n in _finite(steps):
        first, after = first_of_run(steps, n), measured[n]
        start = measured[first]
        for name, bound in ((_PAPER, _paper_w2), (_SHARPER, _sharp_w2)):
            ends = (bound(start.lower, steps[first:n], lam), bound(start.upper, steps[first:n], lam))
            found.append(
                _against(
                    _W2.format(name),
                    name,
                    (after.lower, after.estimate, after.upper),
                    ends,
                    unit="standardised units",
                    rows=path.positions.shape[1],
                    block=n,
                    given=f"{_given(start, first)}; {apart}",
                )
            )
    return found


def _kl_claims(path: Trajectory, steps: Steps, measured: Sequence[W2Bracket], lam: float) -> list[Claim]:
    """The claims on every block but the last, whose KL is the model's (Lemma 5.1), with claims of its own.

    KL(p_n‖q) <= b says that KL(p_N‖q) = KL(p_0‖q_0) is at most b less what the blocks after n lower it by.
    """
    found = []
    for n in _finite(steps[:-1]):
        first = first_of_run(steps, n)
        start = measured[first]
        mean, (low, high) = _mean(path.objective[n] - path.objective[-1], LEVEL)
        for name, bound in ((_PAPER, _paper_kl), (_SHARPER, _sharp_kl)):
            ends = (bound(start.lower, steps[first:n], lam), bound(start.upper, steps[first:n], lam))
            claim = _against(
                _KL.format(name),
                name,
                (low, mean, high),
                ends,
                unit="nats",
                rows=path.positions.shape[1],
                block=n,
                given=_given(start, first),
            )
            known = claim.bound is not None
            found.append(replace(claim, says=(Says("kl", high=ends[0] - low),)) if known else claim)
    return found


def _finite(steps: Steps) -> list[int]:
    """The numbers of the steps of finite size, from 1."""
    return [n for n, step in enumerate(steps, start=1) if math.isfinite(step.gamma)]


def _against(
    claim: str,
    name: str,
    measured: tuple[float, float, float],
    bound: tuple[float, float],
    *,
    unit: str,
    rows: int,
    block: int,
    given: str,
) -> Claim:
    """A number in a bracket against a bound that grows with W2(p_0, q), in a bracket itself.

    It holds below the smaller end of the bound and fails above the larger one. The smaller one is told.
    """
    low, middle, high = measured
    verdict = verdict_below((low, high), bound[0])
    if verdict == "fails":
        verdict = _verdict_above(low, bound[1])
    known = not math.isnan(bound[0])
    return Claim(
        claim,
        _SOURCES[name],
        "plug-in",
        verdict,
        middle,
        interval=(low, high),
        level=LEVEL,
        bound=bound[0] if known else None,
        unit=unit,
        space="latent",
        assumption=given,
        rows=rows,
        block=block,
        remedy={"holds": "", "undecided": _NARROWER if known else UNKNOWN, "fails": _TOO_SMALL}[verdict],
    )


def _verdict_above(low: float, bound: float) -> Verdict:
    return "fails" if low > bound else "undecided"

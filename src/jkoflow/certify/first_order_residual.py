r"""The first-order residual eps_n of each block: how far it is from the proximal step it was to solve.

    xi_n  = ∇V + ∇log p_n - (T_n^{n-1} - id)/gamma_n,       eps_n = ‖xi_n‖_{p_n}             (Assumption 1)
    xi'_n = the same with the learned inverse T_n^{-1},   |‖xi_n‖ - ‖xi'_n‖| <= ‖T_n^{n-1} - T_n^{-1}‖/gamma_n

p_n is known by held-out rows pushed to it, so that T_n^{-1}(x_n) = x_{n-1} needs no inversion. No number here
has a bound to be held against: each is told. From samples ‖xi'_n‖ is had from below only, which can show that
Assumption 1 fails at a given eps, never that it holds. After a free step eps is the norm of the Wasserstein
gradient itself.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (27)-(30) and Remark 3.2; the estimators are those
of `jkoflow.first_order`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.stats import norm
from torch import Tensor

from jkoflow.blocks import Block
from jkoflow.certify.claim import Claim, Interval, Verdict, undecided
from jkoflow.certify.evidence import GIVE_ROWS, LEVEL, Evidence, too_few
from jkoflow.first_order import (
    Derivative,
    FieldSearch,
    StepPairs,
    derivative_at,
    kernel_floor,
    kernel_residual,
    norm_of,
    own_residual,
    own_scores,
    transport_gap,
    variational_norm,
)
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles

__all__ = ["BlockResidual", "claims", "residuals"]

_SOURCE = "Cheng, Lu, Tan & Xie (2024), Assumption 1, eq. (30)"
_UNIT = "standardised units"
_FROM_BELOW = "the first-order residual of a block, with its learned inverse, is at least the lower end"
_OWN = "the first-order residual of a block, by the model's own score"
_KERNEL = "the first-order residual of a block, by the published kernel estimator"
_GAP = "the learned map of a block is the optimal one, seen from pairs (x, T(x)) and from its derivative"
_MODEL_IS_RIGHT = "the model is right: its q_n is p_n"

_ROWS = 4000
"""The residual from samples alone is made from at most so many held-out rows, drawn at random."""

_PAIRS = 2000
"""The distance to the optimal map is measured on at most so many pairs; the assignment costs their cube."""

_OWN_ENTRIES, _OWN_ROWS = 2**14, 1024
"""The model's own score is taken at so many rows that rows times columns is at most the first number, and
at no more rows than the second, but at least at 16; each needs a backward pass through the flow."""

_DERIVATIVE_ENTRIES, _DERIVATIVE_ROWS = 2**11, 64
"""∇T is looked at in so many rows that rows times columns is at most the first number, and in no more rows
than the second, but at least in 16; it has d² entries in each."""

_KERNEL_DIM = 2
"""The published estimator is told of up to so many columns; its floor grows with d."""

_KERNEL_ROWS = 1000
"""Each of its two clouds has at most so many rows, since its assignment costs their cube."""

_KERNEL_FEWEST = 200
"""With fewer rows in a cloud than this it is not told."""

_KERNEL_HIGHEST_FLOOR = 1.0
"""Where it reads more than this at a true minimiser, in units of eps, it is not told; for small steps its
floor grows as 1/gamma."""

_SMALL = 0.25
"""The distance to the optimal map counts as small where it is at most this share of eps."""


@dataclass(frozen=True)
class BlockResidual:
    """What is known of eps of one block, standardised units.

    Arguments:
        number: n, from 1.
        gamma: Size of the proximal step that the block is, or comes nearest to; infinite for a free step.
        rows: Held-out rows that were pushed through it.
        variational: ‖xi'‖ from samples alone, from below in expectation of its square; a plug-in in any
            upper bound.
        interval: Two-sided interval of ‖xi'‖ at `LEVEL`.
        lower: ‖xi'‖ is at least this, one-sided at `LEVEL`.
        own: ‖xi'‖ with the model's own score, which takes for granted that the model is right.
        own_interval: Two-sided interval of `own` at `LEVEL`.
        own_rows: Rows that `own` was measured on.
        transport_gap: ‖T_n^{n-1} - T^{-1}‖/gamma on pairs of rows; 0 for a free step, NaN in a context, where
            pairs of different contexts cannot change partners.
        derivative: How symmetric and how positive ∇T is.
        step_length: ‖T - id‖.
    """

    number: int
    gamma: float
    rows: int
    variational: float
    interval: Interval
    lower: float
    own: float
    own_interval: Interval
    own_rows: int
    transport_gap: float
    derivative: Derivative
    step_length: float

    @property
    def optimal(self) -> bool:
        """Whether xi' may stand for xi: a free step, or a map whose distance to the optimal one is small.

        The antisymmetric part of ∇T over gamma is what a turn of rows at distance 1 adds to xi'.
        """
        if math.isinf(self.gamma):
            return True
        turn = self.derivative.asymmetry / self.gamma
        small = _SMALL * self.variational
        return self.derivative.smallest >= 0 and self.transport_gap <= small and turn <= small


def residuals(evidence: Evidence) -> list[BlockResidual]:
    """eps of every block of the flow, from held-out rows; none where there are too few for `FieldSearch`.

    The same evidence gives the same numbers.
    """
    rows = _rows(evidence)
    if rows is None:
        return []
    levels = [rows]
    for block in evidence.flow:
        levels.append(levels[-1].map(block.push))
    few = rows.rows(slice(0, _count(rows.dim, _OWN_ENTRIES, _OWN_ROWS)))
    scores = own_scores(evidence.flow, few)
    return [
        _residual(evidence, number, block, levels[number - 1], scores[number])
        for number, block in enumerate(evidence.flow, start=1)
    ]


def _residual(
    evidence: Evidence, number: int, block: Block, before: Particles, score: Tensor
) -> BlockResidual:
    pairs = StepPairs.of(block, before, evidence.flow.law)
    source = evidence.stream(f"first-order residual {number}")
    search = FieldSearch.among(before.dim)
    from_below = variational_norm(pairs, generator=source, search=search)
    own = norm_of(own_residual(pairs.rows(slice(0, len(score))), score))
    looked_at = before.rows(slice(0, _count(before.dim, _DERIVATIVE_ENTRIES, _DERIVATIVE_ROWS)))
    return BlockResidual(
        number=number,
        gamma=block.gamma,
        rows=len(pairs),
        variational=from_below.value,
        interval=from_below.interval(float(norm.ppf((1 + LEVEL) / 2))),
        lower=from_below.interval(float(norm.ppf(LEVEL)))[0],
        own=own.value,
        own_interval=own.interval(float(norm.ppf((1 + LEVEL) / 2))),
        own_rows=len(score),
        transport_gap=math.nan if pairs.context is not None else transport_gap(pairs.rows(slice(0, _PAIRS))),
        derivative=derivative_at(block, looked_at.x, looked_at.context),
        step_length=pairs.step_length,
    )


def _rows(evidence: Evidence) -> Particles | None:
    """Held-out rows in random order, `_ROWS` at most."""
    held_out = evidence.unweighted
    if held_out is None or len(held_out) < FieldSearch().least_rows:
        return None
    order = torch.randperm(len(held_out), generator=evidence.stream("first-order residual rows"))
    return held_out.rows(order[:_ROWS].to(held_out.x.device))


def _count(dim: int, entries: int, most: int) -> int:
    return max(16, min(most, entries // dim))


def claims(evidence: Evidence, measured: Sequence[BlockResidual]) -> list[Claim]:
    """eps of every block: from below, by the model's own score and, in the plane, by the published estimator.

    Undecided where the learned map is not near the optimal one against what was measured: then what is told
    is of xi', not of the xi that Theorem 4.3 needs.

    Arguments:
        evidence: The flow with held-out rows.
        measured: What `residuals` found of it.
    """
    rows = _rows(evidence)
    if rows is None:
        count = 0 if evidence.unweighted is None else len(evidence.unweighted)
        why = too_few(count, FieldSearch().least_rows)
        return [undecided(_FROM_BELOW, _SOURCE, "lower", why=why, remedy=GIVE_ROWS, unit=_UNIT, rows=count)]
    found = [claim for block in measured for claim in _told(block, last=len(evidence.flow))]
    return [*found, *_by_kernel(evidence, rows)]


def _told(block: BlockResidual, *, last: int) -> list[Claim]:
    """The claims on one block; by the model's own score not at the last, where it tells nothing."""
    verdict: Verdict = "told" if block.optimal else "undecided"
    remedy = (
        ""
        if block.optimal
        else "as long as T is not optimal, the number is that of xi', not of xi: objective = 'jko' trains "
        "blocks on the proximal objective alone"
    )
    free = math.isinf(block.gamma)
    from_below = Claim(
        _FROM_BELOW,
        _SOURCE,
        "lower",
        verdict,
        block.variational,
        interval=(block.lower, math.inf),
        level=LEVEL,
        unit=_UNIT,
        assumption="a free step: the norm of the Wasserstein gradient" if free else _size(block),
        rows=block.rows,
        block=block.number,
        remedy=remedy,
    )
    own = Claim(
        _OWN,
        _SOURCE,
        "plug-in",
        verdict,
        block.own,
        interval=block.own_interval,
        level=LEVEL,
        unit=_UNIT,
        assumption=_MODEL_IS_RIGHT,
        rows=block.own_rows,
        block=block.number,
        remedy=remedy,
    )
    by_score = [] if block.number == last else [own]
    return [from_below, *by_score, *([] if free else [_gap_claim(block)])]


def _size(block: BlockResidual) -> str:
    """Which step size a residual is of."""
    return f"gamma_n = {block.gamma:.3g}, of the proximal step that the block is, or is nearest to"


def _gap_claim(block: BlockResidual) -> Claim:
    """How far T is from optimal, in the units of eps."""
    derivative = block.derivative
    turn = derivative.asymmetry / block.gamma
    known = math.isfinite(block.transport_gap)
    seen = (
        f"‖T_n^{{n-1}} - T^{{-1}}‖/gamma = {block.transport_gap:.2g} on pairs, antisymmetric part of ∇T over"
        f" gamma {turn:.2g}, smallest eigenvalue of its symmetric part {derivative.smallest:.2g}"
    )
    return Claim(
        _GAP,
        "Cheng, Lu, Tan & Xie (2024), Remark 3.2 and Lemma 3.3",
        "plug-in",
        "holds" if block.optimal else "undecided",
        max(block.transport_gap, turn) if known else None,
        bound=_SMALL * block.variational,
        unit=_UNIT,
        assumption=seen if known else "in a context, rows of different contexts cannot change partners",
        rows=min(block.rows, _PAIRS),
        block=block.number,
        remedy="" if block.optimal else "fit with objective = 'jko', or with smaller steps (gamma)",
    )


def _by_kernel(evidence: Evidence, rows: Particles) -> list[Claim]:
    """The published estimator at the blocks where its floor is low enough to be worth telling."""
    count = min(_KERNEL_ROWS, len(rows) // 2)
    simple = rows.context is None and isinstance(evidence.flow.law, StandardNormal)
    if rows.dim > _KERNEL_DIM or count < _KERNEL_FEWEST or not simple:
        return []
    found, before = [], rows.rows(slice(0, 2 * count))
    for number, block in enumerate(evidence.flow, start=1):
        after = before.map(block.push)
        source = evidence.stream(f"first-order residual kernel {number}")
        floor = kernel_floor(before.x, gamma=block.gamma, rows=count, generator=source)
        if floor <= _KERNEL_HIGHEST_FLOOR:
            clouds = before.x[:count].double(), after.x[count:].double()
            xi = kernel_residual(*clouds, gamma=block.gamma, base=evidence.flow.law)
            found.append(_kernel_claim(number, norm_of(xi).value, floor, 2 * count))
        before = after
    return found


def _kernel_claim(number: int, measured: float, floor: float, rows: int) -> Claim:
    above = measured > 2 * floor
    return Claim(
        f"{_KERNEL}, which reads {floor:.2g} where it is 0",
        "Cheng, Lu, Tan & Xie (2024), Appendix D",
        "plug-in",
        "told" if above else "undecided",
        measured,
        unit=_UNIT,
        assumption="p_n is smooth at the kernel's scale; the floor is of a Gaussian of p_{n-1}'s moments",
        rows=rows,
        block=number,
        remedy="" if above else "this may be no more than the estimator's floor: see the other estimators",
    )

r"""Whether `push`, `pull`, `sample` and `log_prob` are of one law: what every other claim rests on.

    log q_0(x) = log q(T(x)) + sum_n log|det J_n(x_{n-1})|,   J_n by differentiating `push` itself
    T(S(z)) = z,                                              S = S_1 o ... o S_N as computed
    E_{x~S#q}[f r/(r + q_0)] = E_{x~r}[f q_0/(r + q_0)]       for every density r and bounded f

Sources: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, below eq. (38) and Assumption 2, eq. (33); the third
is Bennett's acceptance ratio (1976, J. Comput. Phys. 22, 245): both sides are the integral of
f r q_0/(r + q_0), and what is averaged is bounded, where the plain ratio r/q_0 may have no variance.
"""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import beta
from torch import Tensor

from jkoflow.blocks import Block
from jkoflow.certify.claim import Claim, Interval, Kind, Verdict, undecided, verdict_below
from jkoflow.certify.evidence import GIVE_ROWS, LEVEL, Evidence
from jkoflow.certify.notes import round_trip_remedy
from jkoflow.certify.reference import Reference
from jkoflow.flow import Flow
from jkoflow.flow.likelihood import log_prob, standard_error
from jkoflow.flow.sampling import round_trip_tolerance
from jkoflow.global_state import warning_filters
from jkoflow.particles import Particles

__all__ = ["claims", "jacobians", "share_interval"]

Reals = npt.NDArray[np.float64]

_Stated = tuple[str, str, Kind]  # claim, source, kind
_MAP_SOURCE = "Cheng, Lu, Tan & Xie (2024), below eq. (38)"
_DENSITY: _Stated = ("log_prob is the map's log-density, its Jacobian found anew", _MAP_SOURCE, "theorem")
_ROUNDED: _Stated = ("log_prob in float32 is, in the median row, that in float64", _MAP_SOURCE, "plug-in")
_ROUND_TRIP: _Stated = (
    "all but a small share of the rows come back through the inverse and the map",
    "Cheng, Lu, Tan & Xie (2024), Assumption 2, eq. (33)",
    "plug-in",
)
_ONE_LAW: _Stated = (
    "samples and log_prob are of one normalised law",
    "Bennett (1976), acceptance ratio",
    "plug-in",
)

_DETERMINANT_NATS, _TRACE_NATS = 1e-6, 1e-3
"""For each block: of a determinant against another one, and of a trace that was checked against one."""
_FLOAT32_NATS = 1e-2
_JACOBIAN_ENTRIES, _LARGEST_DIM = 2048, 1024
_DENSITY_ROWS = 128
"""With so many, what is wrong of 5% of the rows is missed once in 700."""
_MISSED_SHARE, _ROUND_TRIP_ROWS, _ACCUSING_LEVEL = 0.005, 2048, 0.999
"""At the level of the other intervals one in forty flows whose share is just allowed would be accused."""
_LAW_ROWS, _LAW_TANGENTS, _FITTED_ROWS = 4096, 2**16, 1024
_FEW_COLUMNS = 32
"""With more, half as many rows are sent there and back."""
_DETERMINANT_DIM = 128
"""Beyond so many columns the determinant of every row takes too long."""
_OFFSET_NATS = 0.2
_STANDARD_ERRORS, _UNSEEN_ROWS = 6.0, 20.0
"""Beyond both together samples and log_prob are not of one law: by chance in 1 of more than 10^6."""
_REST_ON_BOTH = "rest on the claims before it, which together say the same of an invertible map"
_NO_CONTEXT = ("the model needs a context, and there are no rows to take it from", GIVE_ROWS)


def claims(evidence: Evidence) -> list[Claim]:
    """That log_prob is of the map, that the inverse inverts it, that samples have that density.

    The first also in the model's own float32, where that is its dtype.
    """
    return [*_density(evidence), _round_trip(evidence), _one_law(evidence)]


def jacobians(block: Block, x: Tensor, context: Tensor | None = None) -> Tensor:
    """dT(x) of each row, shape `(n, d, d)`, by reverse-mode differentiation of `push` alone.

    The library's own determinants are carried forward by hand; this shares no line with them.
    """

    def image(row: Tensor, given: Tensor | None) -> Tensor:
        return block.push(row[None], None if given is None else given[None])[0]

    rows = Particles(x, context)
    by_row = torch.func.vmap(torch.func.jacrev(image), in_dims=(0, None if context is None else 0))
    with warning_filters():  # that a function has no fast way by rows, which these are too few for
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        parts = [by_row(part.x, part.context) for part in rows.chunks(max(1, _JACOBIAN_ENTRIES // rows.dim))]
    return torch.cat(parts) if parts else x.new_zeros(0, rows.dim, rows.dim)


# ── log_prob is of the map ──


def _density(evidence: Evidence) -> list[Claim]:
    dim = evidence.flow.dim
    n_rows = min(_DENSITY_ROWS, max(4, _JACOBIAN_ENTRIES // dim))
    if dim > _LARGEST_DIM:
        return [_undecided(_DENSITY, f"Jacobians of {dim} columns take too long", "fit fewer columns")]
    rows = _some_rows(evidence, n_rows)
    if rows is None:
        return [_undecided(_DENSITY, *_NO_CONTEXT)]
    # The same discrete map without rounding, so that what differs is the formula.
    exact = Particles(rows.x.double(), None if rows.context is None else rows.context.double())
    copied = copy.deepcopy(evidence.flow).double()
    given = log_prob(copied, exact.x, exact.context)
    found = [_against_autodiff(copied, exact, given)]
    if rows.x.dtype != torch.float64:
        own = log_prob(evidence.flow, rows.x, rows.context)
        found.append(_rounded(own, given))
    return found


def _against_autodiff(flow: Flow, rows: Particles, given: Tensor) -> Claim:
    at, log_det = rows.x, torch.zeros(len(rows), dtype=torch.float64, device=rows.x.device)
    for block in flow:
        log_det = log_det + torch.linalg.slogdet(jacobians(block, at, rows.context))[1]
        with torch.no_grad():
            at = block.push(at, rows.context)
    expected = flow.law.log_prob(at) + log_det
    gap = _difference(given, expected)
    if not len(gap):
        return _undecided(_DENSITY, "no row has a finite log-density", "look for the block that diverged")
    rounding = 1e-12 * float(expected[expected.isfinite()].abs().max()) if expected.isfinite().any() else 0.0
    by_trace = any(block.is_scored_by_trace for block in flow)
    measured = float(gap.mean() if by_trace else gap.max())
    bound = (_TRACE_NATS if by_trace else _DETERMINANT_NATS) * max(1, len(flow)) + rounding
    spread = 2 * standard_error(gap) if by_trace else 0.0
    spread = math.inf if math.isnan(spread) else spread
    interval = (max(0.0, measured - spread), measured + spread)
    verdict = verdict_below(interval, bound) if math.isfinite(measured) else "fails"
    return Claim(
        *_DENSITY,
        verdict,
        measured,
        interval=interval if by_trace else None,
        level=LEVEL if by_trace else None,
        bound=bound,
        unit="nats",
        assumption="the trace stands for the determinant beyond 128 columns" if by_trace else "",
        rows=len(gap),
        remedy="" if verdict == "holds" else "fit with another seed (--seed), or report how to reproduce it",
    )


def _rounded(own: Tensor, exact: Tensor) -> Claim:
    # Far out log_prob is large, and a float32 of it has fewer digits after the point.
    gap = _difference(own / (exact.abs() / 100).clamp(min=1.0), exact / (exact.abs() / 100).clamp(min=1.0))
    measured = float(gap.median()) if len(gap) else math.nan
    verdict: Verdict = "undecided" if math.isnan(measured) else "holds"
    if measured > _FLOAT32_NATS:
        verdict = "fails"
    return Claim(
        *_ROUNDED,
        verdict,
        measured,
        bound=_FLOAT32_NATS,
        unit="nats",
        rows=len(gap),
        remedy="" if verdict == "holds" else "fit with dtype = 'float64'",
    )


def _difference(one: Tensor, other: Tensor) -> Tensor:
    """|one - other| of the rows where either is a number; infinite where only one is."""
    comparable = one.isfinite() | other.isfinite()
    return (one - other).abs().nan_to_num(nan=math.inf)[comparable]


# ── the inverse inverts the map ──


def _round_trip(evidence: Evidence) -> Claim:
    ends = _latent_rows(evidence)
    if ends is None:
        return _undecided(_ROUND_TRIP, *_NO_CONTEXT)
    tolerance = round_trip_tolerance(ends.x.dtype)
    x = evidence.flow.invert(ends.x, ends.context).x
    off = (evidence.flow.push(x, ends.context) - ends.x).norm(dim=1)
    miss = (~(off <= tolerance * _scale(ends.x))).nonzero()[:, 0]
    if len(miss) and x.dtype != torch.float64:
        near = _near_inverse_image(evidence.flow, ends.rows(miss), x[miss], tolerance)
        miss = miss[~near]
    interval = share_interval(len(miss), len(ends))
    verdict = verdict_below(interval, _MISSED_SHARE)
    return Claim(
        *_ROUND_TRIP,
        verdict,
        len(miss) / len(ends),
        interval=interval,
        level=LEVEL,
        bound=_MISSED_SHARE,
        unit=f"share of rows off by more than {tolerance:g}",
        assumption="rows: base noise, and held-out rows pushed"
        if evidence.unweighted
        else "rows: base noise",
        rows=len(ends),
        remedy="" if verdict == "holds" else round_trip_remedy(evidence),
    )


def _scale(rows: Tensor) -> Tensor:
    """Root mean square coordinate of each row, at least 1: far out, floats are further apart."""
    size: Tensor = rows.norm(dim=1) / math.sqrt(rows.shape[1])
    return size.clamp(min=1.0)


def _near_inverse_image(flow: Flow, ends: Particles, x: Tensor, tolerance: float) -> Tensor:
    """Whether x is within tolerance of the inverse image itself, found and confirmed in float64.

    A map that stretches a thousandfold makes the rounding of x alone into an error beyond the tolerance.
    """
    copied = copy.deepcopy(flow).double()
    y, context = ends.x.double(), None if ends.context is None else ends.context.double()
    image = copied.invert(y, context).x
    confirmed = (copied.push(image, context) - y).norm(dim=1) <= tolerance * _scale(y)
    near: Tensor = confirmed & ((image - x.double()).norm(dim=1) <= tolerance * _scale(image))
    return near


def _latent_rows(evidence: Evidence) -> Particles | None:
    """Base noise, and as many pushed held-out rows where there are any."""
    n_rows = _ROUND_TRIP_ROWS if evidence.flow.dim <= _FEW_COLUMNS else _ROUND_TRIP_ROWS // 2
    pushed = _some_rows(evidence, n_rows // 2) if evidence.unweighted else None
    n_noise = n_rows - (0 if pushed is None else len(pushed))
    context = evidence.contexts(n_noise, "round trip")
    if context is None and evidence.takes_context:
        return None
    noise = evidence.flow.law.sample(n_noise, evidence.stream("round trip")).to(evidence.like)
    if pushed is None:
        return Particles(noise, context)
    image = evidence.flow.push(pushed.x, pushed.context)
    both = None if context is None or pushed.context is None else torch.cat([context, pushed.context])
    return Particles(torch.cat([noise, image]), both)


def share_interval(count: int, n: int) -> Interval:
    """Clopper and Pearson's interval of a share, never too narrow; its lower end at `_ACCUSING_LEVEL`."""
    tail, lower_tail = (1 - LEVEL) / 2, (1 - _ACCUSING_LEVEL) / 2
    low = float(beta.ppf(lower_tail, count, n - count + 1)) if count else 0.0
    return low, float(beta.ppf(1 - tail, count + 1, n - count)) if count < n else 1.0


# ── samples have the density that log_prob says ──


def _one_law(evidence: Evidence) -> Claim:
    dim = evidence.flow.dim
    n_rows = min(_LAW_ROWS, max(1024, _LAW_TANGENTS // dim))
    n_fitted = max(_FITTED_ROWS, 16 * dim)
    context = evidence.contexts(n_rows + n_fitted, "one law")
    if context is None and evidence.takes_context:
        return _undecided(_ONE_LAW, *_NO_CONTEXT)
    if dim > _DETERMINANT_DIM:
        return _undecided(_ONE_LAW, f"{n_rows} log-densities of {dim} columns take too long", _REST_ON_BOTH)
    rows = evidence.draw(n_rows + n_fitted, context=context, part=41)
    fitted, drawn, context = rows.x[n_rows:], rows.x[:n_rows], rows.rows(slice(n_rows)).context
    if not (fitted.isfinite().all() and drawn.isfinite().all()):
        return _undecided(_ONE_LAW, "a sample is not finite", "see the claim on the round trip")
    seed = int(torch.randint(2**31 - 1, (1,), generator=evidence.stream("one law")))
    reference = Reference.near(fitted.double().cpu().numpy(), seed=seed)
    sides = [
        _side(evidence.flow, reference, x, context)
        for x in (drawn, torch.as_tensor(reference.sample(n_rows, seed=seed + 1)).to(drawn))
    ]
    offset, interval = _offset(*(ratio for ratio, _ in sides))
    verdict: Verdict = "holds" if max(map(abs, interval)) <= _OFFSET_NATS else "undecided"
    if _imbalanced(*sides):
        verdict = "fails"
    remedies: dict[Verdict, str] = {
        "holds": "",
        "undecided": _REST_ON_BOTH,
        "fails": "samples and log_prob contradict each other: trust neither, and report how to reproduce it",
    }
    return Claim(
        *_ONE_LAW,
        verdict,
        offset,
        interval=interval,
        level=LEVEL,
        bound=_OFFSET_NATS,
        unit="nats that log_prob is too high",
        rows=n_rows,
        remedy=remedies[verdict],
    )


def _side(flow: Flow, reference: Reference, x: Tensor, context: Tensor | None) -> tuple[Reals, Reals]:
    """log r - log q_0 of each row, +inf where the model has no density, and every f, in [-1, 1].

    The f are 1, and for each whitened coordinate where it lies and how far out: shape `(n, 1 + 2d)`.
    """
    nats = log_prob(flow, x, context).nan_to_num(nan=-math.inf).cpu().numpy()
    at = x.double().cpu().numpy()
    w = reference.whitened(at)
    return reference.log_prob(at) - nats, np.hstack([np.ones((len(w), 1)), np.tanh(w), np.tanh(w**2 - 1)])


def _imbalanced(drawn: tuple[Reals, Reals], other: tuple[Reals, Reals]) -> bool:
    """Whether the two sides of the identity differ for some f by more than chance.

    A row adds at most 1 to either side, so that what is too rare to have been seen is worth a few rows.
    """
    difference = drawn[1] * expit(drawn[0])[:, None] - other[1] * expit(-other[0])[:, None]
    n, spread = len(difference), difference.std(axis=0)
    allowed = _STANDARD_ERRORS * spread / math.sqrt(n) + _UNSEEN_ROWS / n
    return bool((np.abs(difference.mean(axis=0)) > allowed).any())


def _offset(drawn: Reals, other: Reals) -> tuple[float, Interval]:
    """Nats by which log_prob is too high, where the identity balances at f = 1, and its interval.

    With 1.96 standard errors, and the 4 rows that may be unseen in 1 of 50.
    """

    def balance(nats: float, side: int) -> float:
        difference = expit(drawn + nats) - expit(-other - nats)
        n = len(difference)
        return float(difference.mean() + side * (1.96 * difference.std() / math.sqrt(n) + 4 / n))

    def root(side: int) -> float:
        if not balance(-700.0, side) < 0 < balance(700.0, side):
            return -side * math.inf if side else math.nan
        return float(brentq(balance, -700.0, 700.0, args=(side,), xtol=1e-6))

    return root(0), (root(1), root(-1))


def _some_rows(evidence: Evidence, n_rows: int) -> Particles | None:
    """Different held-out rows at random, samples where there are none; None where a context is missing."""
    held_out = evidence.unweighted
    if evidence.takes_context and not (held_out and held_out.context is not None):
        return None
    if not held_out:
        return evidence.draw(n_rows, part=40)
    order = torch.randperm(len(held_out), generator=evidence.stream("integrity rows"))
    return held_out.rows(order[:n_rows].to(held_out.x.device))


def _undecided(stated: _Stated, why: str, remedy: str) -> Claim:
    return undecided(*stated, why=why, remedy=remedy)

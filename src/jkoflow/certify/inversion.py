r"""How far computed inverses are from true ones, and what that can do to the samples.

    eps_inv,n = ‖T_n o S_n - id‖_{q~_n},      W2(q_0, q~_0) <= Σ_n L_1...L_n eps_inv,n,   L_n = Lip(T_n^{-1})

with S_n the inverse as computed, T_n the map without rounding, and x ~ q~_n base noise pulled through
S_N, ..., S_{n+1}. From above, L_n is what the block says of itself, from its weights
(`Block.inverse_lipschitz`); from below, it is at least 1/sigma_min(∇T_n) at any point.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, Assumptions 2 and 6, Proposition 5.4, eq. (41).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jkoflow.blocks import Block, InverseLipschitz
from jkoflow.bounds import inversion_w2_by_block
from jkoflow.certify.claim import Claim, Interval, Kind, Verdict, undecided, verdict_below
from jkoflow.certify.evidence import GIVE_ROWS, LEVEL, Evidence
from jkoflow.certify.integrity import jacobians
from jkoflow.flow import Flow
from jkoflow.flow.sampling import round_trip_tolerance

__all__ = ["claims"]

_ERROR = "the computed inverse of a block misses by no more than the bound, in root mean square"
_TOTAL = "samples, pushed forward, miss their base noise by this, in root mean square"
_LIPSCHITZ = "the inverse of a block is Lipschitz with no more than the bound"
_W2 = "W2 between exact samples and computed ones is at most Σ L_1...L_n eps_inv,n"
_ASSUMPTION_2 = "Cheng, Lu, Tan & Xie (2024), Assumption 2, eq. (33)"
_SOURCE = "Cheng, Lu, Tan & Xie (2024), Proposition 5.4, eq. (41), by blocks"

_ROWS, _NUMBERS = (256, 1024), 2**14
"""So many rows are pulled back, fewest and most, and so many numbers in between."""

_JACOBIAN_ROWS, _JACOBIAN_ENTRIES, _LARGEST_DIM = (4, 256), 2**17, 1024
"""The Lipschitz constant of the inverse is looked for at so many rows: a Jacobian has d² entries."""

_REFERENCE_TOLERANCE, _NEWTON_FROM, _NEWTON_STEPS = 1e-11, 1e-9, 3


@dataclass(frozen=True)
class _Pulled:
    """One block on its way back.

    Arguments:
        error: |T_n(S_n(x)) - x| of each row, x ~ q~_n, shape `(m,)`, float64.
        stretch: Largest 1/sigma_min(∇T_n) at the first rows; None where it was not looked for.
        folds: Whether det ∇T_n is of both signs among them.
        looked_at: How many these are.
        upper: The bound from the weights.
    """

    error: Tensor
    stretch: float | None
    folds: bool
    looked_at: int
    upper: InverseLipschitz


def claims(evidence: Evidence) -> list[Claim]:
    """Assumption 2 of every block and of the whole, Assumption 6 of every block, Proposition 5.4 twice.

    The bound of Proposition 5.4 with Lipschitz constants from the weights is a theorem where each is proven
    for the discrete block, and may be astronomically large; with sampled constants it is a plug-in.
    """
    flow = evidence.flow
    rows = min(max(_NUMBERS // flow.dim, _ROWS[0]), _ROWS[1])
    context = evidence.contexts(rows, "inversion")
    if context is None and evidence.takes_context:
        why = "the model needs a context and there are no held-out rows to take it from"
        return [undecided(_W2, _SOURCE, "plug-in", why=why, remedy=GIVE_ROWS)]
    noise = flow.law.sample(rows, evidence.stream("inversion")).to(evidence.like)
    exact = copy.deepcopy(flow).double()
    samples, pulled = _pull_back(flow, exact, noise, context)
    total = _exact_push(exact, samples, context) - noise.double()
    found = [
        claim
        for number, block in enumerate(pulled, start=1)
        for claim in (_error_claim(block, number, noise.dtype), _lipschitz_claim(block, number))
    ]
    found.append(_total_claim(total.norm(dim=1).nan_to_num(nan=math.inf)))
    return [*found, *_w2_claims(exact, pulled, noise, samples, context)]


def _pull_back(
    flow: Flow, exact: Flow, noise: Tensor, context: Tensor | None
) -> tuple[Tensor, list[_Pulled]]:
    """S_1(...S_N(noise)) and what was seen of each block, in the order of `push`."""
    at, pulled = noise, []
    doubled = None if context is None else context.double()
    for block, copied in reversed(list(zip(flow, exact, strict=True))):
        x = block.invert(at, context).x
        with torch.no_grad():
            error = (copied.push(x.double(), doubled) - at.double()).norm(dim=1).nan_to_num(nan=math.inf)
        stretch = _stretch(copied, x.double(), doubled)
        pulled.append(_Pulled(error, *stretch, copied.inverse_lipschitz(doubled)))
        at = x
    return at, pulled[::-1]


def _exact_push(exact: Flow, x: Tensor, context: Tensor | None) -> Tensor:
    return exact.push(x.double(), None if context is None else context.double())


def _stretch(block: Block, x: Tensor, context: Tensor | None) -> tuple[float | None, bool, int]:
    """The largest 1/sigma_min(∇T) at some rows of x, whether det ∇T changes its sign there, how many."""
    if block.dim > _LARGEST_DIM:
        return None, False, 0
    fewest, most = _JACOBIAN_ROWS
    count = min(max(_JACOBIAN_ENTRIES // block.dim**2, fewest), most)
    usable = x.isfinite().all(dim=1).nonzero()[:count, 0]
    derivative = jacobians(block, x[usable], None if context is None else context[usable])
    derivative = derivative[derivative.isfinite().all(dim=2).all(dim=1)]
    if not len(derivative):
        return None, False, 0
    smallest = float(torch.linalg.svdvals(derivative)[:, -1].min())
    signs = torch.linalg.slogdet(derivative)[0]
    stretch = 1 / smallest if smallest > 0 else math.inf
    return stretch, bool(signs.min() != signs.max()), len(derivative)


def _error_claim(block: _Pulled, number: int, dtype: torch.dtype) -> Claim:
    bound = round_trip_tolerance(dtype)
    measured, interval = _root_mean_square(block.error)
    verdict = verdict_below(interval, bound) if math.isfinite(measured) else "fails"
    return Claim(
        _ERROR,
        _ASSUMPTION_2,
        "plug-in",
        verdict,
        measured,
        interval=interval,
        level=LEVEL,
        bound=bound,
        unit="standardised units",
        rows=len(block.error),
        block=number,
        remedy="" if verdict == "holds" else "fit with dtype = 'float64', or with smaller steps (gamma)",
    )


def _total_claim(error: Tensor) -> Claim:
    """Told, against no bound: a map that stretches makes much of the rounding of a good sample."""
    measured, interval = _root_mean_square(error)
    finite = math.isfinite(measured)
    return Claim(
        _TOTAL,
        _ASSUMPTION_2,
        "plug-in",
        "told" if finite else "fails",
        measured,
        interval=interval if finite else None,
        level=LEVEL if finite else None,
        unit="standardised units",
        space="latent",
        rows=len(error),
        remedy="" if finite else "look at the claims on each block",
    )


def _lipschitz_claim(block: _Pulled, number: int) -> Claim:
    kind, assumption, upper = _kind([block.upper]), block.upper.assumption, block.upper.bound
    verdict: Verdict = "undecided"
    remedy = "go by the claims on the round trip: a bound from the weights is rarely small"
    if block.folds:
        verdict, remedy = "fails", "fit with smaller steps (gamma)"
        assumption = "its determinant is of both signs: 0 in between, where no inverse is Lipschitz"
    elif block.upper.proven and math.isfinite(upper) and (block.stretch or 0) <= upper * (1 + 1e-9):
        verdict, remedy = "holds", ""
    return Claim(
        _LIPSCHITZ,
        "Cheng, Lu, Tan & Xie (2024), Assumption 6 and Lemma C.2",
        kind,
        verdict,
        block.stretch,
        bound=upper,
        unit="largest stretch of the inverse at the rows",
        assumption=assumption,
        rows=block.looked_at,
        block=number,
        remedy=remedy,
    )


def _w2_claims(
    exact: Flow, pulled: Sequence[_Pulled], noise: Tensor, samples: Tensor, context: Tensor | None
) -> list[Claim]:
    """Proposition 5.4 for the law of the drawn noise rows, for which every eps_inv,n is exact."""
    if not pulled:
        return []
    distance, unsure = _coupling(exact, noise, samples, context)
    errors = [_root_mean_square(block.error)[0] for block in pulled]
    upper = [block.upper.bound for block in pulled]
    sampled = [math.nan if block.stretch is None else block.stretch for block in pulled]
    proven = all(block.upper.proven for block in pulled)
    bound, plug_in = (inversion_w2_by_block(errors, constants) for constants in (upper, sampled))
    reached = math.prod(upper) * unsure
    assumption = "; ".join(dict.fromkeys(b.upper.assumption for b in pulled if b.upper.assumption))
    theorem = proven and math.isfinite(bound)
    by_theorem = Claim(
        f"{_W2}, L_n from the weights",
        _SOURCE,
        _kind([block.upper for block in pulled]),
        verdict_below((distance - reached, distance), bound) if theorem else "undecided",
        distance,
        bound=bound,
        assumption=assumption,
        unit="standardised units",
        rows=len(noise),
        remedy="" if theorem else "see the Lipschitz constants by block",
    )
    by_samples = Claim(
        f"{_W2}, L_n sampled",
        _SOURCE,
        "plug-in",
        "holds" if distance <= plug_in else "undecided",
        distance,
        bound=plug_in,
        unit="standardised units",
        assumption="sampled Lipschitz constants are from below",
        rows=len(noise),
    )
    return [by_theorem, by_samples]


def _coupling(exact: Flow, noise: Tensor, samples: Tensor, context: Tensor | None) -> tuple[float, float]:
    """Root mean square distance between computed and refined samples of the same noise, which W2 is below.

    With it the round-trip error that the refined ones have themselves.
    """
    doubled = None if context is None else context.double()
    at = noise.double()
    for block in reversed(list(exact)):
        at = _refined(block, at, doubled)
    distance = _root_mean_square((samples.double() - at).norm(dim=1))[0]
    return distance, _root_mean_square((exact.push(at, doubled) - noise.double()).norm(dim=1))[0]


@torch.no_grad()
def _refined(block: Block, y: Tensor, context: Tensor | None) -> Tensor:
    """T^-1(y), float64; rows that the block's own inverse misses are corrected by Newton's method."""
    x = block.invert(y, context, tolerance=_REFERENCE_TOLERANCE).x
    for _ in range(_NEWTON_STEPS if block.dim <= _LARGEST_DIM else 0):
        residual = y - block.push(x, context)
        off = (residual.norm(dim=1) > _NEWTON_FROM).nonzero()[:, 0]
        if not len(off):
            break
        derivative = jacobians(block, x[off], None if context is None else context[off])
        move, singular = torch.linalg.solve_ex(derivative, residual[off])
        x = x.index_add(0, off, torch.where(singular[:, None] > 0, 0.0, move))
    return x


def _kind(constants: Sequence[InverseLipschitz]) -> Kind:
    return "theorem" if all(constant.proven for constant in constants) else "upper-under-assumption"


def _root_mean_square(error: Tensor) -> tuple[float, Interval]:
    """The root of the mean square and where it lies at `LEVEL`."""
    square = error.double().square()
    mean = float(square.mean())
    spread = 1.96 * float(square.std()) / math.sqrt(len(square)) if len(square) > 1 else math.inf
    return math.sqrt(mean), (math.sqrt(max(0.0, mean - spread)), math.sqrt(mean + spread))

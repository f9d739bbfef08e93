r"""How far computed inverses are from true ones, and what that can do to the samples.

    eps_inv,n = ‖T_n o S_n - id‖_{q~_n},      W2(q_0, q~_0) <= Σ_n L_1...L_n eps_inv,n,   L_n = Lip(T_n^{-1})

with S_n the inverse as computed, T_n the map without rounding, and x ~ q~_n base noise pulled through
S_N, ..., S_{n+1}. For a field that is K-Lipschitz in x, one Runge-Kutta step of length h is
x + u(x) with Lip(u) <= P(hK), P(s) = s + s²/2 + s³/6 + s⁴/24, so that for P < 1 the *discrete* block has

    L_n <= (1 - P(K/steps))^{-steps};      otherwise e^K (Lemma C.2) bounds the undiscretised inverse only.

From below, L_n is at least 1/sigma_min(∇T_n) at any point. K comes from the weights: the chain of layers with
SiLU split as z/2 + psi(z), Lip(psi) = 0.59984 (the loop transformation of Fazlyab et al. 2023, arXiv
2310.00116), Fourier features and taper included.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, Assumptions 2 and 6, Proposition 5.4, eq. (41).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from jkoflow.blocks import AffineBlock, Block, NeuralODEBlock
from jkoflow.blocks.ode.velocity import MLPVelocity, VelocityField
from jkoflow.bounds import inversion_w2_by_block
from jkoflow.certify.claim import Claim, Interval, Kind, Verdict, undecided, verdict_below
from jkoflow.certify.evidence import LEVEL, Evidence
from jkoflow.certify.integrity import jacobians
from jkoflow.flow import Flow
from jkoflow.flow.sampling import round_trip_tolerance

__all__ = ["InverseLipschitz", "claims", "inverse_lipschitz", "velocity_lipschitz"]

_ERROR = "the computed inverse of a block misses by no more than the bound, in root mean square"
_TOTAL = "samples, pushed forward, miss their base noise by this, in root mean square"
_LIPSCHITZ = "the inverse of a block is Lipschitz with no more than the bound"
_W2 = "W2 between exact samples and computed ones is at most Σ L_1...L_n eps_inv,n"
_ASSUMPTION_2 = "Cheng, Lu, Tan & Xie (2024), Assumption 2, eq. (33)"
_SOURCE = "Cheng, Lu, Tan & Xie (2024), Proposition 5.4, eq. (41), by blocks"

_ROWS, _JACOBIAN_ENTRIES, _LARGEST_DIM = 1024, 8192, 1024
_REFERENCE_TOLERANCE, _NEWTON_FROM, _NEWTON_STEPS = 1e-11, 1e-9, 3
_SILU_SLOPE = 0.5998393194
"""silu' lies in [-0.09984, 1.09984]: it differs from 1/2 by at most this."""
_CELLS = 1000


@dataclass(frozen=True)
class InverseLipschitz:
    """A Lipschitz constant of T^-1.

    Arguments:
        bound: Above it; infinite where nothing is known or the number is too large for a float.
        proven: Whether it bounds the inverse of the discrete map itself.
        assumption: What it rests on where it does not.
    """

    bound: float
    proven: bool
    assumption: str = ""


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
    flow, rows = evidence.flow, _ROWS if evidence.flow.dim <= 64 else _ROWS // 4
    context = evidence.contexts(rows, "inversion")
    if context is None and evidence.takes_context:
        why = "the model needs a context and there are no held-out rows to take it from"
        return [undecided(_W2, _SOURCE, "plug-in", why=why, remedy="give held-out rows")]
    noise = flow.base.sample(rows, evidence.stream("inversion")).to(evidence.like)
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
        pulled.append(_Pulled(error, *stretch, inverse_lipschitz(copied, context=doubled)))
        at = x
    return at, pulled[::-1]


def _exact_push(exact: Flow, x: Tensor, context: Tensor | None) -> Tensor:
    return exact.push(x.double(), None if context is None else context.double())


def _stretch(block: Block, x: Tensor, context: Tensor | None) -> tuple[float | None, bool, int]:
    """The largest 1/sigma_min(∇T) at some rows of x, whether det ∇T changes its sign there, how many."""
    if block.dim > _LARGEST_DIM:
        return None, False, 0
    usable = x.isfinite().all(dim=1).nonzero()[:, 0][: max(4, min(256, _JACOBIAN_ENTRIES // block.dim))]
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
        remedy="" if verdict == "holds" else "fit blocks with more solver steps, or more and smaller steps",
    )


def _total_claim(error: Tensor) -> Claim:
    """Told, against no bound: a map that stretches makes much of the rounding of a good sample."""
    measured, interval = _root_mean_square(error)
    finite = math.isfinite(measured)
    return Claim(
        _TOTAL,
        _ASSUMPTION_2,
        "plug-in",
        "holds" if finite else "fails",
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
    remedy = "more solver steps make the bound one of the discrete map; only a smoother field makes it small"
    if block.folds:
        verdict, remedy = "fails", "fit the block with more solver steps"
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


# ── Lipschitz constants from the weights ──


def inverse_lipschitz(block: Block, *, context: Tensor | None = None) -> InverseLipschitz:
    """A bound on Lip(T^-1) from the numbers of the block alone.

    Arguments:
        block: An affine block, exact, or a neural-ODE block; of any other nothing is known.
        context: The contexts for which it should hold, shape `(m, c)`; those of the rows.
    """
    if isinstance(block, AffineBlock):
        smallest = float(torch.linalg.svdvals(block.matrix.double())[-1])
        return InverseLipschitz(1 / smallest if smallest > 0 else math.inf, proven=smallest > 0)
    if not isinstance(block, NeuralODEBlock):
        return InverseLipschitz(math.inf, proven=False, assumption=f"{type(block).__name__}: no bound known")
    constant = velocity_lipschitz(block.velocity, steps=block.steps, context=context)
    s = constant / block.steps
    step = s + s**2 / 2 + s**3 / 6 + s**4 / 24
    if step < 1:
        return InverseLipschitz((1 - step) ** -block.steps, proven=True)
    why = "solver steps so fine that e^K, of the undiscretised inverse, bounds that of the discrete block"
    return InverseLipschitz(math.exp(constant) if constant < 709 else math.inf, proven=False, assumption=why)


@torch.no_grad()
def velocity_lipschitz(velocity: VelocityField, *, steps: int = 1, context: Tensor | None = None) -> float:
    """K with |v(x, t) - v(y, t)| <= K |x - y| for all x, y and the stage times t; infinite if not known.

    v = a w F: |∇v| <= a (w |∇F| + |∇w| |F|), and |F(x)| <= |F(0)| + Lip(F) |x| where |∇w| is not 0, in the
    shell from the radius R to 2R, which is cut into cells.

    Arguments:
        velocity: The field.
        steps: Runge-Kutta steps over [0, 1], for the times at which it is evaluated.
        context: Contexts for which it should hold, shape `(m, c)`.
    """
    if not isinstance(velocity, MLPVelocity):
        return math.inf
    amplitude, radius = abs(float(velocity.amplitude)), float(velocity.radius)
    network = _network_lipschitz(velocity)
    if math.isinf(radius):
        return amplitude * network
    edges = torch.linspace(0, 1, _CELLS + 1, dtype=torch.float64)
    left, right = edges[:-1], edges[1:]
    # the largest value of each factor in the cell: the product of them is above the largest product
    taper = 1 - left.pow(3) * (10 - 15 * left + 6 * left.square())
    hump = torch.maximum(left * (1 - left), right * (1 - right))
    hump[_CELLS // 2 - 1 : _CELLS // 2 + 1] = 0.25
    distance = (1 + 3 * right).sqrt()
    slope = 20 * hump.square() * distance / radius
    size = _largest_at_origin(velocity, steps, context) + network * radius * distance
    return amplitude * max(network, float((taper * network + slope * size).max()))


def _largest_at_origin(velocity: MLPVelocity, steps: int, context: Tensor | None) -> float:
    """The largest |F(0, t, c)| at the stage times."""
    dtype = velocity.radius.dtype
    given = None if context is None else context.to(dtype)
    if given is None and velocity.context_dim:
        return math.inf
    origin = torch.zeros(1 if given is None else len(given), velocity.dim, dtype=dtype).to(velocity.radius)
    norms = [
        velocity.raw(origin, stage / (2 * steps), given).norm(dim=1).max() for stage in range(2 * steps + 1)
    ]
    return float(torch.stack(norms).max())


def _network_lipschitz(velocity: MLPVelocity) -> float:
    """Lip(F) in x: G(k) bounds the derivative of the k-th layer before its activation.

    G(k) = 2^{1-k} ‖A_k...A_1 ∇phi‖ + Σ_{j<k} 2^{1+j-k} c ‖A_k...A_{j+1}‖ G(j),   c = 0.59984
    """
    layers = cast("list[nn.Linear]", [*velocity.hidden, velocity.out])
    weights = [layer.weight.double() for layer in layers]
    features = velocity.dim + 2 * velocity.n_frequencies
    weights[0] = weights[0][:, :features]
    bounds: list[float] = []
    for k in range(1, len(weights) + 1):
        product = weights[k - 1]
        total = 0.0
        for j in range(k - 1, 0, -1):
            norm = float(torch.linalg.matrix_norm(product, ord=2))
            total += 2.0 ** (1 + j - k) * _SILU_SLOPE * norm * bounds[j - 1]
            product = product @ weights[j - 1]
        total += 2.0 ** (1 - k) * _features_norm(product, velocity)
        bounds.append(total)
    return bounds[-1]


def _features_norm(product: Tensor, velocity: MLPVelocity) -> float:
    """A bound on ‖P ∇phi(x)‖, phi = [x, sin Wx, cos Wx], for all x.

    The derivative of sin and cos is W, turned: with D the lengths of W's rows, ‖P D‖ ‖D^{-1} W‖.
    """
    direct = float(torch.linalg.matrix_norm(product[:, : velocity.dim], ord=2))
    if not velocity.n_frequencies:
        return direct
    frequencies = velocity.frequencies.double()
    lengths = frequencies.norm(dim=1)
    turned = frequencies / torch.where(lengths > 0, lengths, 1.0)[:, None]
    weighted = product[:, velocity.dim :] * lengths.repeat(2)
    return direct + float(torch.linalg.matrix_norm(weighted, ord=2) * torch.linalg.matrix_norm(turned, ord=2))

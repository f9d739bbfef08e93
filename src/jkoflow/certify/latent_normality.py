r"""Whether pushed held-out rows can be told from standard normal ones, by their energy distance.

    E(z) = (2/n) sum_i E|z_i - Y| - E|Y - Y'| - (1/n^2) sum_ij |z_i - z_j|,    Y, Y' ~ N(0, I_d),

an estimate of the energy distance, which is 0 for the normal law alone (Székely & Rizzo 2005, "A new test for
multivariate normality", J. Multivariate Anal. 93, 58). No second sample adds noise, since E|z - Y| is known:

    E|z - Y| = pi^{-1/2} ∫ (1 - L(u^2)) u^{-2} du,    L(t) = (1 + 2t)^{-d/2} exp(-|z|^2 t/(1 + 2t)),

L the Laplace transform of the noncentral chi^2. The p-value is p = (1 + #{E(normal rows) >= E(z)})/(1 + B)
over B draws of as many normal rows: exact at every n and d, not asymptotic (Davison & Hinkley 1997,
Section 4.2).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from jkoflow.certify.claim import Claim, Verdict, undecided
from jkoflow.certify.evidence import GIVE_ROWS, Evidence
from jkoflow.laws import StandardNormal

__all__ = ["claims", "distance_to_normal"]

_CLAIM = "pushed held-out rows cannot be told from N(0, I) by their energy distance"
_SOURCE = "Székely & Rizzo (2005); KL(p_0|q_0) = KL(p_N|q), Lemma 5.1"
_ROWS = 1000
"""The energy distance is of at most so many pushed rows, drawn at random; its cost grows with their
square."""

_FEWEST_ROWS = 50
"""With fewer rows than this the claim never holds, since next to nothing would be seen."""

_DRAWS = 199
"""B, how many samples of normal rows the distance is compared with; the smallest p-value is 1/(1 + B) =
0.005."""

_FAILS_BELOW = 0.01
"""The claim fails where the p-value is below this."""

_HOLDS_FROM = 0.05
"""The claim holds where the p-value is at least this; between the two it is undecided."""

_MANY_COLUMNS = 128
"""With more columns than this half as many rows are taken."""

_NODES = 128
"""The integral over the Laplace transform is taken by a Gauss-Legendre rule of so many nodes."""

_ENTRIES = 2**20
"""As many samples of normal rows are taken at once as keep every array below so many numbers (8 MB)."""


def claims(evidence: Evidence) -> list[Claim]:
    """The energy distance to N(0, I) against what normal rows have by chance, with its p-value.

    It fails at p < 0.01, holds at p >= 0.05. That it holds is no proof of normality: the more rows, the finer
    what is seen.
    """
    held_out, base = evidence.unweighted, evidence.flow.law
    if not isinstance(base, StandardNormal):
        return [_undecided(f"the base law is {type(base).__name__}, not N(0, I)", "see the other claims", 0)]
    if held_out is None or not len(held_out):
        return [_undecided("no held-out rows", GIVE_ROWS, 0)]
    order = torch.randperm(len(held_out), generator=evidence.stream("latent normality rows"))
    count = _ROWS if base.dim <= _MANY_COLUMNS else _ROWS // 2
    rows = held_out.rows(order[:count].to(held_out.x.device))
    z = evidence.flow.push(rows.x, rows.context).double().cpu()
    if not z.isfinite().all():
        return [_undecided("a pushed row is not finite", "look at the rows' values", len(rows))]
    return [_claim(z, _by_chance(len(z), base.dim, evidence.stream("latent normality")))]


def _claim(z: Tensor, chance: Tensor) -> Claim:
    """The distance of the pushed rows z `(n, d)` against those of as many normal rows."""
    measured = float(distance_to_normal(z))
    p_value = (1 + int((chance >= measured).sum())) / (1 + len(chance))
    enough = len(z) >= _FEWEST_ROWS
    verdict: Verdict = "holds" if enough and p_value >= _HOLDS_FROM else "undecided"
    if p_value < _FAILS_BELOW:
        verdict = "fails"
    return Claim(
        f"{_CLAIM}: p = {p_value:.3f}, half of normal rows have {float(chance.median()):.2g} or less",
        _SOURCE,
        "plug-in",
        verdict,
        measured,
        level=1 - 1 / (1 + len(chance)),
        bound=float(chance.max()),  # above it, and only there, p = 0.005
        unit="energy distance",
        space="latent",
        rows=len(z),
        remedy=_remedy(verdict, enough=enough),
    )


def _remedy(verdict: Verdict, *, enough: bool) -> str:
    if verdict == "fails":
        return "go by the bracket of the KL, which tells how much it matters; more rows to fit make it less"
    return (
        ""
        if verdict == "holds"
        else "give more held-out rows"
        if not enough
        else "certify with other held-out rows: a p-value between 0.01 and 0.05 decides nothing"
    )


def _undecided(why: str, remedy: str, rows: int) -> Claim:
    return undecided(_CLAIM, _SOURCE, "plug-in", why=why, remedy=remedy, space="latent", rows=rows)


def distance_to_normal(z: Tensor) -> Tensor:
    """The energy distance between rows and N(0, I_d), shape `(..., n, d)` to `(...)`, float64.

    At least 0 up to rounding.
    """
    n, dim = z.shape[-2:]
    between_normal = 2 * math.exp(math.lgamma((dim + 1) / 2) - math.lgamma(dim / 2))
    within = torch.cdist(z, z).sum(dim=(-2, -1)) / n**2
    return 2 * _mean_distance(z.square().sum(dim=-1), dim).mean(dim=-1) - between_normal - within


def _by_chance(n: int, dim: int, source: torch.Generator) -> Tensor:
    """The energy distances of `_DRAWS` samples of n normal rows, several at once where they are small."""
    at_once = max(1, _ENTRIES // (n * max(n, dim, _NODES)))
    sizes = [min(at_once, _DRAWS - start) for start in range(0, _DRAWS, at_once)]
    rows = (torch.randn(size, n, dim, generator=source, dtype=torch.float64) for size in sizes)
    return torch.cat([distance_to_normal(part) for part in rows])


def _mean_distance(squared: Tensor, dim: int) -> Tensor:
    """E|z - Y| of rows with |z|^2 = `squared`, of any shape; the integral over u = tan(angle)/scale."""
    nodes, weights = _gauss_legendre()
    mean_square = dim + squared  # of |z - Y|: the integrand bends at tan(angle) = 1
    t = torch.tan(nodes).square() / mean_square[..., None]
    log_transform = -dim / 2 * torch.log1p(2 * t) - squared[..., None] * t / (1 + 2 * t)
    integrand = -torch.expm1(log_transform) / torch.sin(nodes).square()
    return (mean_square / math.pi).sqrt() * (integrand @ weights)


def _gauss_legendre() -> tuple[Tensor, Tensor]:
    """Nodes and weights on (0, pi/2)."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return torch.as_tensor((nodes + 1) * math.pi / 4), torch.as_tensor(weights * math.pi / 4)

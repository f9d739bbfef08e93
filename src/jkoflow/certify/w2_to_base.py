r"""W2(p_n, q) of rows from either side.

From below, by Kantorovich duality with quadratic potentials: for every M > 0 and b,

    W2²(p, q) >= E_p[|x|² - xᵀMx - 2 bᵀx] + E_q[|z|² - (z - b)ᵀ M^{-1} (z - b)],

equal to the Gelbrich (Bures) distance of the moments at their optimal map x ↦ Mx + b. The map is fitted on
one half of the rows and the mean taken on the other, then the other way round, so that it is a lower bound in
expectation. From above, by the best assignment between equal samples, whose expectation is above W2², by far
when d is large; or, through the end of the flow, W2(p_n, q) <= ‖x_n - x_N‖ + W2(p_N, q). In one dimension the
sample is sorted against q itself,

    W2²(p̂, q) = Σ_i ∫_{(i-1)/m}^{i/m} |x_(i) - Φ^{-1}(u)|² du.

Sources: Villani (2003), Topics in Optimal Transportation, Theorems 1.3 and 2.18; Gelbrich (1990), Math.
Nachr. 147, 185; for the fluctuation of assignments, del Barrio & Loubes (2019), Ann. Probab. 47, 926.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import norm
from torch import Tensor

from jkoflow.certify.evidence import LEVEL, Evidence
from jkoflow.exact import AffineMap, GaussianState, transport_map
from jkoflow.first_order import assignment
from jkoflow.laws import StandardNormal

__all__ = ["W2Bracket", "assignment_w2_squared", "brackets"]

Array = NDArray[np.float64]

_DRAWS = 20_000
"""The dual bound takes its expectation under q over so many draws."""

_ASSIGNED = 1000
"""Samples are assigned to each other by at most so many rows; an assignment costs their cube."""

_ASSIGNED_OF_MANY, _MANY = 600, 6
"""It is at most the first number of rows where there are more laws along the flow than the second."""

_Z = float(norm.ppf((1 + LEVEL) / 2))
"""A two-sided interval at `LEVEL` reaches so many standard errors to either side."""


@dataclass(frozen=True)
class W2Bracket:
    """W2(p, q), not squared, standardised units.

    Arguments:
        lower: Lower end at `LEVEL`, from quadratic potentials.
        estimate: W2 of the assignment, less what two samples of q are apart, moved between the ends.
        upper: Upper end at `LEVEL`.
        chance: What two samples of q are apart at this number of rows; 0 in one dimension.
    """

    lower: float
    estimate: float
    upper: float
    chance: float


@dataclass(frozen=True)
class _Dual:
    """Value of the dual with quadratic potentials and the standard deviations of the two, W2² units."""

    value: float
    of_rows: float
    of_draws: float


def brackets(evidence: Evidence, positions: Tensor) -> list[W2Bracket]:
    """W2(p_n, q) of every law along the flow.

    Arguments:
        evidence: For q and for the draws.
        positions: x_0, …, x_N paired by row, in an order that is random, shape `(N + 1, m, d)`.
    """
    base, laws = evidence.flow.law, positions.double().cpu().numpy()
    z = np.asarray(base.sample(_DRAWS, evidence.stream("W2 to the base")).numpy())
    sorted_exactly = base.dim == 1 and isinstance(base, StandardNormal)
    k = min(laws.shape[1], _ASSIGNED if len(laws) <= _MANY else _ASSIGNED_OF_MANY)
    chance = 0.0 if sorted_exactly else assignment_w2_squared(z[:k], z[-k:])
    normal = [GaussianState.from_samples(half) for half in np.array_split(z, 2)]
    duals = [_dual(x, z, normal) for x in laws]
    above, estimates = [], []
    for x, dual in zip(laws, duals, strict=True):
        squared = _sorted_w2_squared(x[:, 0]) if sorted_exactly else assignment_w2_squared(x[:k], z[:k])
        rows, draws = (len(x), math.inf) if sorted_exactly else (k, k)
        above.append(squared + _Z * math.hypot(dual.of_rows / rows**0.5, dual.of_draws / draws**0.5))
        estimates.append(squared - chance)
    end, last = math.sqrt(max(above[-1], 0.0)), laws[-1]
    found = []
    for x, dual, upper, estimate in zip(laws, duals, above, estimates, strict=True):
        spread = math.hypot(dual.of_rows / len(x) ** 0.5, dual.of_draws / len(z) ** 0.5)
        lower = math.sqrt(max(dual.value - _Z * spread, 0.0))
        upper = max(lower, min(math.sqrt(max(upper, 0.0)), _coupling(x, last) + end))
        middle = math.sqrt(max(estimate, dual.value, 0.0))
        found.append(W2Bracket(lower, min(max(middle, lower), upper), upper, math.sqrt(chance)))
    return found


def assignment_w2_squared(x: Array, y: Array) -> float:
    """W2² between two samples of the same size, shapes `(k, d)`, exactly: the mean cost of the assignment."""
    partner = assignment(torch.as_tensor(x), torch.as_tensor(y)).numpy()
    return float(((x - y[partner]) ** 2).sum(axis=1).mean())


def _coupling(x: Array, y: Array) -> float:
    """Upper end of the root mean square distance of paired rows."""
    squares = ((x - y) ** 2).sum(axis=1)
    return math.sqrt(float(squares.mean()) + _Z * float(squares.std()) / math.sqrt(len(squares)))


def _sorted_w2_squared(x: Array) -> float:
    """W2² between a sample on the line and N(0, 1)."""
    levels = np.linspace(0, 1, len(x) + 1)
    below = np.exp(-(ndtri(levels) ** 2) / 2) / math.sqrt(2 * math.pi)  # minus the integral of the quantiles
    return float((x**2).mean() - 2 * np.sort(x) @ (below[:-1] - below[1:]) + 1)


def _dual(x: Array, z: Array, normal: Sequence[GaussianState]) -> _Dual:
    """The dual with potentials of one half of the rows on the other half, both ways.

    Arguments:
        x: Rows, shape `(m, d)`.
        z: Draws of q.
        normal: The moments of each half of these.
    """
    halves = list(zip(np.array_split(x, 2), np.array_split(z, 2), normal, strict=True))
    of_rows, of_draws = [], []
    for (x_fit, _, moments), (x_new, z_new, _) in (halves, halves[::-1]):
        transport = _moment_map(x_fit, moments)
        b = transport.offset
        of_rows.append((x_new**2).sum(1) - ((x_new @ transport.matrix + 2 * b) * x_new).sum(1))
        solved = np.linalg.solve(transport.matrix, (z_new - b).T).T
        of_draws.append((z_new**2).sum(1) - (solved * (z_new - b)).sum(1))
    value = np.mean([part.mean() for part in of_rows]) + np.mean([part.mean() for part in of_draws])
    spreads = (float(np.sqrt(np.mean([part.var() for part in parts]))) for parts in (of_rows, of_draws))
    return _Dual(float(value), *spreads)


def _moment_map(x: Array, target: GaussianState) -> AffineMap:
    """The optimal map between the Gaussians of the moments; a little variance where x has none."""
    source = GaussianState.from_samples(x)
    spread = max(float(np.trace(source.covariance)) / source.dim, 1e-12)
    source = GaussianState(source.mean, source.covariance + 1e-6 * spread * np.eye(source.dim))
    return transport_map(source, target)

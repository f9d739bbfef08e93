r"""The KL by nearest neighbours: held-out NLL less the entropy of the rows, corrected by the model's draws.

    H_k(x_1, ..., x_n) = log(n - 1) - psi(k) + log V_d + (d/n) sum_i log r_k(x_i)
    KL ~ [NLL(x) - H_k(x)] - [NLL(y) - H_k(y)],     x_1, ..., x_n ~ p_0,  y_1, ..., y_n ~ q_0

r_k is the distance to the k-th neighbour, V_d the volume of the unit ball. The first bracket is the
estimator of Kozachenko & Leonenko (1987, Probl. Inf. Transm. 23, 95) in the place of the entropy. Its bias
is that of a density taken to be constant between neighbours; the second bracket, whose true value is 0,
measures that bias on the model, where it is nearly the same. What is finer in the data than the distances
between neighbours, and not in the model, is not seen. The interval is by subsampling (Politis & Romano
1994, Ann. Statist. 22, 2031), as the R package kldest has it (Hartung et al., CRAN).

Taken in x and in T(x), where one or the other resolves more (Lemma 5.1); of the two the larger counts,
since both err on the small side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import cKDTree
from scipy.special import digamma, gammaln
from torch import Tensor

from jkoflow.certify.seen import Seen

__all__ = ["NeighbourKL", "neighbour_kl"]

Reals = npt.NDArray[np.float64]

_NEIGHBOUR = 4
"""k: nearer ones are finer and noisier."""

_TREE_DIM = 10
"""Up to so many columns neighbours are found by a k-d tree, beyond by all distances."""

_DISTANCES = 2**24
"""So many distances are held at once."""

_SUBSAMPLES = 100
"""The interval is read from so many subsamples of n^{2/3} rows."""

_LEVEL_TAILS = (0.025, 0.975)


@dataclass(frozen=True)
class NeighbourKL:
    """An estimate of the KL.

    Arguments:
        value: Nats.
        interval: Two-sided, 95 %.
        se: Standard error, nats, of the estimate as a mean over rows.
        space: `"x"` or `"z"`, where it was taken.
    """

    value: float
    interval: tuple[float, float]
    se: float
    space: str


def neighbour_kl(rows: Seen, draws: Seen, *, generator: torch.Generator) -> NeighbourKL:
    """The KL of the law of `rows` from the model's, nats.

    Arguments:
        rows: Held-out rows; at least k + 2.
        draws: Fresh samples of the model, as many.
        generator: Source of the subsamples.
    """
    spaces = [_in_space(rows, draws, space, generator) for space in ("x", "z")]
    return max(spaces, key=lambda found: found.value if math.isfinite(found.value) else -math.inf)


def _in_space(rows: Seen, draws: Seen, space: str, generator: torch.Generator) -> NeighbourKL:
    sides = [_positions(seen, space) for seen in (rows, draws)]
    gains = [_gains(x, log_q) for x, log_q in sides]
    usable = [gain[np.isfinite(gain)] for gain in gains]
    if min(map(len, usable)) <= _NEIGHBOUR + 1:
        return NeighbourKL(math.nan, (math.nan, math.nan), math.nan, space)
    value = float(usable[0].mean() - usable[1].mean())
    se = math.hypot(*(float(part.std() / math.sqrt(len(part))) for part in usable))
    size = max(2 * _NEIGHBOUR + 2, int(min(map(len, gains)) ** (2 / 3)))
    subsampled = np.array([_subsampled(sides, size, generator) for _ in range(_SUBSAMPLES)])
    spread = subsampled - np.nanmean(subsampled)  # fewer rows are further apart: their mean has another bias
    quantiles: Reals = np.asarray(np.nanquantile(spread, _LEVEL_TAILS))
    low, high = quantiles * math.sqrt(size / len(rows))
    return NeighbourKL(value, (value - float(high), value - float(low)), se, space)


def _subsampled(sides: Sequence[tuple[Reals, Reals]], size: int, generator: torch.Generator) -> float:
    """The estimate from `size` rows and as many draws."""
    means = []
    for x, log_q in sides:
        chosen = torch.randperm(len(x), generator=generator)[:size].numpy()
        gains = _gains(x[chosen], log_q[chosen])
        means.append(gains[np.isfinite(gains)].mean() if np.isfinite(gains).any() else math.nan)
    return float(means[0] - means[1])


def _positions(seen: Seen, space: str) -> tuple[Reals, Reals]:
    """Rows, each column by its spread, and the model's log-density of them there."""
    x: Tensor = seen.x if space == "x" else seen.z
    values = np.asarray(x.double().cpu().numpy())
    if space == "z":
        return values, seen.log_base.cpu().numpy()
    low, high = np.asarray(np.quantile(values, (0.25, 0.75), axis=0))
    spread = np.where(high > low, high - low, 1.0)
    return values / spread, seen.log_q0.cpu().numpy() + float(np.log(spread).sum())


def _gains(x: Reals, log_q: Reals) -> Reals:
    """log of the neighbours' density less log q_0 of each row; infinite where k others coincide with it."""
    n, dim = x.shape
    with np.errstate(divide="ignore"):
        volume = dim * np.log(_distances(x)) + dim / 2 * math.log(math.pi) - float(gammaln(dim / 2 + 1))
    return np.asarray(float(digamma(_NEIGHBOUR)) - math.log(n - 1) - volume - log_q)


def _distances(x: Reals) -> Reals:
    """Distance of each row to its k-th neighbour, shape `(n,)`."""
    if x.shape[1] <= _TREE_DIM:
        nearest_of_each: Reals = np.asarray(cKDTree(x).query(x, k=[_NEIGHBOUR + 1])[0])
        return nearest_of_each[:, 0]
    at = torch.as_tensor(x)
    parts = torch.split(at, max(1, _DISTANCES // len(at)))
    nearest = [torch.cdist(part, at).kthvalue(_NEIGHBOUR + 1, dim=1).values for part in parts]
    return np.asarray(torch.cat(nearest).numpy())

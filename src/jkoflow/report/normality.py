"""How far pushed rows are from the standard normal law, in numbers.

    energy distance = 2 E|Z - Y| - E|Z - Z'| - E|Y - Y'|,   Y, Y' ~ N(0, I_d),

zero only when Z ~ N(0, I_d) (Székely & Rizzo 2013, "Energy statistics"). Under the same law |z|² is chi² with
d degrees of freedom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import beta, chi2, norm

__all__ = [
    "Normality",
    "chi2_quantiles",
    "energy_distance",
    "measure_normality",
    "normal_quantiles",
    "order_band",
]


@dataclass(frozen=True)
class Normality:
    """Measured departures from N(0, I_d).

    Attributes:
        rows: Rows measured.
        largest_mean: Largest |mean| over the coordinates.
        smallest_std: Smallest standard deviation over the coordinates.
        largest_std: Largest one.
        largest_correlation: Largest |correlation| between two coordinates; 0 where d = 1.
        energy: Energy distance to N(0, I_d), of at most 500 rows unless asked otherwise.
        energy_reference: The largest of the energy distances of as many normal rows, drawn 19 times unless
            asked otherwise; normal rows exceed it by chance in 1 of 20 cases.
    """

    rows: int
    largest_mean: float
    smallest_std: float
    largest_std: float
    largest_correlation: float
    energy: float
    energy_reference: float


def energy_distance(z: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Energy distance between two samples, shapes `(n, d)` and `(m, d)`; the V-statistic, never negative."""
    return float(2 * cdist(z, y).mean() - cdist(z, z).mean() - cdist(y, y).mean())


def measure_normality(
    z: NDArray[np.float64], *, most_rows: int = 500, draws: int = 19, seed: int = 0
) -> Normality:
    """Measure pushed rows; the same rows give the same numbers.

    Arguments:
        z: Pushed rows, shape `(n, d)` with n at least 2.
        most_rows: Most rows that energy distances are of; their cost grows with the square of it.
        draws: How often normal rows are drawn for `energy_reference`.
        seed: Seed of these draws.
    """
    n, dim = z.shape
    generator = np.random.default_rng(seed)
    std = z.std(axis=0)
    scaled = (z - z.mean(axis=0)) / np.where(std > 0, std, 1.0)
    correlation = scaled.T @ scaled / n
    np.fill_diagonal(correlation, 0.0)

    some = z if n <= most_rows else z[generator.choice(n, most_rows, replace=False)]
    normal = generator.standard_normal((len(some), dim))
    reference = [energy_distance(generator.standard_normal(some.shape), normal) for _ in range(draws)]
    return Normality(
        rows=n,
        largest_mean=float(np.abs(z.mean(axis=0)).max()),
        smallest_std=float(std.min()),
        largest_std=float(std.max()),
        largest_correlation=float(np.abs(correlation).max()),
        energy=energy_distance(some, normal),
        energy_reference=max(reference),
    )


def _levels(n: int) -> NDArray[np.float64]:
    return (np.arange(1, n + 1) - 0.5) / n


def normal_quantiles(n: int) -> NDArray[np.float64]:
    """Quantiles of N(0, 1) that n sorted values are compared with, shape `(n,)`."""
    return np.asarray(norm.ppf(_levels(n)))


def chi2_quantiles(n: int, dim: int) -> NDArray[np.float64]:
    """Quantiles of chi² with `dim` degrees of freedom that n sorted |z|² are compared with, shape `(n,)`."""
    return np.asarray(chi2.ppf(_levels(n), dim))


def order_band(n: int, *, dim: int | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pointwise 95 % band of n sorted values under N(0, 1), or under chi² with `dim` degrees of freedom.

    The i-th of n sorted uniforms is Beta(i, n + 1 - i).
    """
    rank = np.arange(1, n + 1)
    low, high = beta.ppf(0.025, rank, n + 1 - rank), beta.ppf(0.975, rank, n + 1 - rank)
    law = norm() if dim is None else chi2(dim)
    return np.asarray(law.ppf(low)), np.asarray(law.ppf(high))

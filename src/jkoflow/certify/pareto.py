r"""The generalised Pareto law, which the excesses over a high threshold nearly have.

    P(Y > y) = (1 + xi y / sigma)^{-1/xi},    y >= 0;    e^{-y/sigma} for xi = 0;  y <= -sigma/xi for xi < 0

Source: Pickands (1975), Ann. Statist. 3, 119; fitted by the estimator of Zhang & Stephens (2009),
Technometrics 51, 316.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["ParetoTail", "fit_pareto_tail"]

Reals = npt.NDArray[np.float64]

_FEWEST = 5
"""The law is fitted to at least so many excesses."""

_FLAT = 1e-6
"""A smaller |xi| counts as 0, whose formula is the limit."""


@dataclass(frozen=True)
class ParetoTail:
    """The law of excesses.

    Arguments:
        shape: xi, the inverse of the tail index; below 0 for a law that ends.
        scale: sigma, above 0.
    """

    shape: float
    scale: float

    def log_survival(self, y: Reals) -> Reals:
        """log P(Y > y), shape `(n,)`; -oo beyond the end of the law."""
        if abs(self.shape) < _FLAT:
            return -y / self.scale
        return -self._log(y) / self.shape

    def log_density(self, y: Reals) -> Reals:
        """Shape `(n,)`, nats; -oo from the end of the law on."""
        if abs(self.shape) < _FLAT:
            return -y / self.scale - math.log(self.scale)
        within = self.shape * y > -self.scale
        return np.where(
            within, -(1 / self.shape + 1) * self._log(np.where(within, y, 0)) - math.log(self.scale), -np.inf
        )

    def _log(self, y: Reals) -> Reals:
        """log(1 + xi y/sigma), -oo beyond the end of the law."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log1p((self.shape * y / self.scale).clip(-1)))


def fit_pareto_tail(excesses: Reals) -> ParetoTail | None:
    """The law of excesses above 0, shape `(k,)`; None for fewer than five, or where none could be fitted.

    xi = mean log(1 + theta y), sigma = xi/theta for the mean theta of a likelihood over a grid of theta.
    """
    count = len(excesses)
    if count < _FEWEST or excesses.min() == excesses.max():
        return None
    largest = excesses.max()
    y = np.sort(excesses / largest)
    points = 30 + math.isqrt(count)
    quartile = y[int(count / 4 + 0.5) - 1]
    with np.errstate(all="ignore"):  # what is no number is told apart below
        b = 1 + (1 - np.sqrt(points / (np.arange(1, points + 1) - 0.5))) / (3 * quartile)
        shapes = np.log1p(-b[:, None] * y).mean(axis=1)
        likelihood = count * (np.log(-b / shapes) - shapes - 1)
        weight = np.exp(likelihood - likelihood.max())
        mean = b @ weight / weight.sum()
        shape = np.log1p(-mean * y).mean()
        scale = -shape / mean * largest
    return ParetoTail(float(shape), float(scale)) if np.isfinite(shape) and 0 < scale < np.inf else None

r"""Maps of columns to normal scores, by quantiles and by the tails of each column.

    u_j = Phi^{-1}(F_j(x_j)),    r(x) = m(u_1, ..., u_d) prod_j u_j'(x_j)

F_j is smooth between quantiles of the column, where u_j is a monotone cubic through normal scores, and has
tails of the generalised Pareto law beyond them (`pareto`). Few numbers tell of poles, skew and heavy tails;
what columns have to do with each other is left to a mixture m of their scores. Sources:
nonparanormal laws, Liu, Lafferty & Wasserman (2009), J. Mach. Learn. Res. 10, 2295; monotone cubics, Fritsch
& Carlson (1980), SIAM J. Numer. Anal. 17, 238, as SciPy has them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator
from scipy.special import ndtri, ndtri_exp
from scipy.stats import norm

from jkoflow.certify.pareto import ParetoTail, fit_pareto_tail

__all__ = ["NormalScores"]

Reals = npt.NDArray[np.float64]

_TAIL = 0.03
"""So large a share of the rows lies beyond the outermost quantile each side, more where some coincide."""

_QUANTILES = 12
"""The cubic goes through so many quantiles, at equal steps of their levels; fewer where some coincide."""

_PRIOR_ROWS, _PRIOR_SHAPE = 10, 0.5
"""The shape of a tail is drawn towards 1/2 as by ten more rows (Vehtari et al. 2024, J. Mach. Learn. Res. 25,
72, appendix C)."""

_APART = 1e-9
"""Quantiles are told apart where they differ by more than this share of the distance of the outermost two."""

_FARTHEST_LOG_MASS = -600.0
"""Farther out than the point with a mass of e^-600 beyond it a score stays what it is there."""

_NOWHERE_NATS = -1e4
"""Log-density of a column farther out than that, so that it is finite and next to nothing."""


@dataclass(frozen=True)
class NormalScores:
    """The map of one column.

    Arguments:
        quantiles: Where the cubic is fixed, increasing, shape `(k,)`.
        levels: F there.
        below: Law of the distances below the first quantile.
        above: Law of the distances above the last one.
    """

    quantiles: Reals
    levels: Reals
    below: ParetoTail
    above: ParetoTail

    @classmethod
    def of(cls, column: Reals) -> NormalScores | None:
        """Fitted to a column, shape `(n,)`.

        None where half of the quantiles coincide, where a tail has fewer than five rows or one value, or
        where a value is no number.
        """
        levels = np.linspace(_TAIL, 1 - _TAIL, _QUANTILES)
        quantiles = np.quantile(column, levels)
        apart = np.append(True, np.diff(quantiles) > _APART * (quantiles[-1] - quantiles[0]))
        quantiles, levels = quantiles[apart], levels[apart]
        if len(quantiles) < _QUANTILES // 2 or not np.isfinite(column).all():
            return None
        below, above = _tail_of(quantiles[0] - column), _tail_of(column - quantiles[-1])
        return None if below is None or above is None else cls(quantiles, levels, below, above)

    def __call__(self, column: Reals) -> tuple[Reals, Reals]:
        """u and log u' of each value, shapes `(n,)`."""
        first, last = self.quantiles[0], self.quantiles[-1]
        cubic = PchipInterpolator(self.quantiles, ndtri(self.levels))
        inside = column.clip(first, last)
        u, log_slope = cubic(inside), np.log(cubic.derivative()(inside).clip(np.finfo(float).tiny))
        for tail, far, mass, sign in (
            (self.below, first - column, self.levels[0], 1.0),
            (self.above, column - last, 1 - self.levels[-1], -1.0),
        ):
            out = far > 0
            score, log_density = _tail_scores(tail, far[out], mass)
            u[out] = sign * score
            log_slope[out] = log_density - norm.logpdf(score)
        return u, log_slope


def _tail_of(distance: Reals) -> ParetoTail | None:
    """The law of the distances above 0, of a shape that a few rows cannot throw far off."""
    excesses = distance[distance > 0]
    tail, rows = fit_pareto_tail(excesses), len(excesses)
    if tail is None:
        return None
    return replace(tail, shape=(rows * tail.shape + _PRIOR_ROWS * _PRIOR_SHAPE) / (rows + _PRIOR_ROWS))


def _tail_scores(tail: ParetoTail, distance: Reals, mass: float) -> tuple[Reals, Reals]:
    """Phi^{-1} of the mass beyond, and the log-density; the tail as a whole has `mass`."""
    log_mass = math.log(mass) + tail.log_survival(distance)
    log_density = np.where(
        log_mass > _FARTHEST_LOG_MASS, math.log(mass) + tail.log_density(distance), _NOWHERE_NATS
    )
    return ndtri_exp(log_mass.clip(_FARTHEST_LOG_MASS)), log_density

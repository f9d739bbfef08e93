r"""Witnesses: other normalised densities of the rows; what one explains better than the model proves a gap.

    KL(p_0‖q_0) >= E_{p_0}[log r - log q_0]     for every density r, since E_{p_0}[log p_0 - log r] >= 0

No draw of q_0 is needed, and the gain has no ceiling. Here r is a mixture of Gaussians with full
covariances, of up to as many components as the closing of a flow has, fitted to the rows by their own
location and spread: rows that lie far from those of the fit, or close together, are a law like any other.
Source: theory, "Beyond the paper", witness bound.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jkoflow.certify.seen import Seen
from jkoflow.particles import Particles
from jkoflow.steps.mixture import EMRules, MixtureRules, fit_mixture

__all__ = ["Mixture", "affordable_components"]

_COMPONENTS = (1, 5, 15, 50, 150, 300)
_LEAST_ROWS_OF_A_COMPONENT = 20
_RULES = MixtureRules(EMRules(floor=1e-4))
"""A component is never narrower than a hundredth of a column: a few rows make no density of their own."""


_MOST_NATS = 1e12
"""A gain is cut from above there, which only lowers the bound: the model's log-density of a row may be
-oo."""


class Mixture:
    """A mixture of Gaussians.

    Arguments:
        rows: Rows that it is fitted to; without context.
        n_components: Its Gaussians.
        seed: Of their start.
    """

    def __init__(self, rows: Seen, n_components: int, *, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        x = rows.x.double()
        spread = x.std(dim=0)
        self._location = x.mean(dim=0)
        self._spread = torch.where(spread > 0, spread, 1.0)
        self._law = fit_mixture(Particles(self._own_units(x)), n_components, generator, _RULES)

    def gain(self, rows: Seen) -> Tensor:
        """log r - log q_0 of each row, shape `(n,)`, nats, float64."""
        nats = self._law.log_prob(self._own_units(rows.x.double())) - self._spread.log().sum()
        return (nats.to(rows.log_q0) - rows.log_q0).clamp_max(_MOST_NATS)

    def _own_units(self, x: Tensor) -> Tensor:
        return (x - self._location) / self._spread


def affordable_components(rows: Seen) -> tuple[int, ...]:
    """Numbers of Gaussians that the rows can carry; none where the law depends on a context."""
    if rows.context is not None:
        return ()
    least = _LEAST_ROWS_OF_A_COMPONENT + rows.dim
    return tuple(count for count in _COMPONENTS if len(rows) >= count * least)

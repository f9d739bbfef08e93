r"""Witnesses: other normalised densities of the rows; what one explains better than the model proves a gap.

    KL(p_0‖q_0) >= E_{p_0}[log r - log q_0]     for every density r, since E_{p_0}[log p_0 - log r] >= 0

No draw of q_0 is needed, and the gain has no ceiling. Here r is a mixture of Gaussians with full
covariances, of up to as many components as the closing of a flow has, fitted to the rows by their own
location and spread: rows that lie far from those of the fit, or close together, are a law like any other.
Or it is such a mixture of the columns' normal scores (`normal_scores`), for poles, skew and heavy tails.
Source: theory, "Beyond the paper", the bracket.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from jkoflow.certify.normal_scores import NormalScores
from jkoflow.certify.seen import Seen
from jkoflow.errors import JKOFlowError
from jkoflow.particles import Particles
from jkoflow.steps.mixture import EMRules, MixtureRules, fit_mixture

__all__ = ["Mixture", "MixtureOfScores", "Witness", "fit_witnesses", "gain"]

_COMPONENTS = (1, 5, 15, 50, 150, 300)
"""Gaussians of the mixtures of columns."""

_COMPONENTS_OF_SCORES = (1, 5, 15)
"""Gaussians of the mixtures of normal scores."""

_LEAST_ROWS_OF_A_COMPONENT = 20
"""A Gaussian has at least so many rows, and one more for each column."""

_MOST_ADDED_NATS = 1e4
"""A row counts for at most so many nats in the choice among numbers of Gaussians."""

_MOST_PRODUCTS = 6e8
"""Rows times Gaussians times d² is at most this, which bounds what a step of EM costs."""

_RULES = MixtureRules(EMRules(floor=1e-4))
"""A component is never narrower than a hundredth of a column: a few rows make no density of their own."""

_MOST_NATS = 1e12
"""A gain is cut from above there, which only lowers the bound: the model's log-density of a row may be
-oo."""


class Witness(Protocol):
    """A normalised density."""

    def log_prob(self, x: Tensor) -> Tensor:
        """log r of each row of `x`, shape `(n, d)`, float64; shape `(n,)`, nats, float64."""


class Mixture:
    """A mixture of Gaussians.

    Arguments:
        x: Rows that it is fitted to, shape `(n, d)`, float64.
        n_components: Its Gaussians.
        seed: Of their start.
    """

    def __init__(self, x: Tensor, n_components: int, *, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        spread = x.std(dim=0)
        self._location = x.mean(dim=0)
        self._spread = torch.where(spread > 0, spread, 1.0)
        self._law = fit_mixture(Particles(self._own_units(x)), n_components, generator, _RULES)

    def log_prob(self, x: Tensor) -> Tensor:
        """log r of each row, shape `(n,)`, nats."""
        nats: Tensor = self._law.log_prob(self._own_units(x)) - self._spread.log().sum()
        return nats

    def _own_units(self, x: Tensor) -> Tensor:
        return (x - self._location) / self._spread


class MixtureOfScores:
    """A mixture of Gaussians of the columns' normal scores.

    Arguments:
        x: Rows that it is fitted to, shape `(n, d)`, float64.
        maps: From each column to its scores.
        n_components: Its Gaussians.
        seed: Of their start.
    """

    def __init__(self, x: Tensor, maps: list[NormalScores], n_components: int, *, seed: int) -> None:
        self._maps = maps
        generator = torch.Generator().manual_seed(seed)
        self._law = fit_mixture(Particles(self._scores(x)[0]), n_components, generator, _RULES)

    def log_prob(self, x: Tensor) -> Tensor:
        """log r of each row, shape `(n,)`, nats."""
        scores, log_slopes = self._scores(x)
        nats: Tensor = self._law.log_prob(scores) + log_slopes
        return nats

    def _scores(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """u of each row, and the sum of log u' over its columns."""
        columns = x.cpu().numpy().T
        found = [to_scores(column) for to_scores, column in zip(self._maps, columns, strict=True)]
        scores, log_slopes = (
            torch.as_tensor(np.stack(part, axis=1)).to(x) for part in zip(*found, strict=True)
        )
        return scores, log_slopes.sum(dim=1)


def fit_witnesses(x: Tensor, others: Seen, *, seed: int) -> list[Witness]:
    """Of each kind those of more and more Gaussians, for as long as other rows are explained better.

    Arguments:
        x: Rows that they are fitted to, shape `(n, d)`.
        others: Rows that tell how many Gaussians are enough.
        seed: Of their starts.
    """
    x = x.double()
    found = _growing(_COMPONENTS, x, others, lambda count: Mixture(x, count, seed=seed))
    maps = [NormalScores.of(column) for column in x.cpu().numpy().T]
    told = [to_scores for to_scores in maps if to_scores is not None]
    if len(told) < len(maps):
        return found

    def of_scores(count: int) -> Witness:
        return MixtureOfScores(x, told, count, seed=seed)

    return found + _growing(_COMPONENTS_OF_SCORES, x, others, of_scores)


def _growing(
    components: tuple[int, ...], x: Tensor, others: Seen, fit: Callable[[int], Witness]
) -> list[Witness]:
    """Witnesses of as many Gaussians as the rows carry, up to the first that adds less to the model."""
    found: list[Witness] = []
    most = -math.inf
    for count in _affordable(components, x):
        try:
            witness = fit(count)
            added = float(softplus(gain(witness, others)).clamp_max(_MOST_ADDED_NATS).mean())
        except JKOFlowError:  # a covariance that is none: the witnesses so far do
            break
        if added < most:
            break
        most = added
        found.append(witness)
    return found


def gain(witness: Witness, rows: Seen) -> Tensor:
    """log r - log q_0 of each row, shape `(n,)`, nats, float64; -oo where it is no number."""
    nats = witness.log_prob(rows.x.double()) - rows.log_q0
    return nats.nan_to_num(nan=-math.inf, posinf=_MOST_NATS, neginf=-math.inf).clamp_max(_MOST_NATS)


def _affordable(components: tuple[int, ...], x: Tensor) -> tuple[int, ...]:
    """Numbers of Gaussians that the rows can carry, at a cost that a certificate can."""
    rows, dim = x.shape
    most = min(rows / (_LEAST_ROWS_OF_A_COMPONENT + dim), _MOST_PRODUCTS / (rows * dim**2))
    return tuple(count for count in components if count <= most)

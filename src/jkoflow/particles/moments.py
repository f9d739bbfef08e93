r"""Mean and covariance of particles, as they are and shrunk, of any number of rows and weights.

    m = E[x],   S = E[(x-m)(x-m)^T],   S* = (1 - rho) S + rho mu I,   mu = tr S / d
    rho = min(b, e)/e,   e = |S - mu I|_F^2 / d,   b = (E|x-m|^4 - |S|_F^2) / (n d)

Up to 64 MB of float64 the sums are taken at once; beyond, a chunk of rows at a time. With
weights n is the effective number of rows, (sum w)^2 / sum w^2. Source: Ledoit & Wolf (2004), "A
well-conditioned estimator for large-dimensional covariance matrices", section 3.2; the form is scikit-learn's
`ledoit_wolf`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jkoflow.particles.particles import Particles
from jkoflow.storage.chunks import WHOLE_NUMBERS
from jkoflow.storage.scratch import CHUNK_ROWS

__all__ = ["Moments"]


@dataclass(frozen=True)
class Moments:
    """What a Gaussian needs to know of rows, float64, on their device.

    Arguments:
        mean: m, shape `(d,)`.
        covariance: S, divided by n, shape `(d, d)`.
        shrunk: S*, shape `(d, d)`.
    """

    mean: Tensor
    covariance: Tensor
    shrunk: Tensor

    @classmethod
    def of(
        cls, *parts: Particles, whole_numbers: int = WHOLE_NUMBERS, chunk_rows: int = CHUNK_ROWS
    ) -> Moments:
        """The moments of all rows together, by their weights.

        Arguments:
            parts: The rows.
            whole_numbers: Numbers up to which sums are taken of all rows at once.
            chunk_rows: Rows of a chunk beyond.
        """
        plain = all(part.weight is None for part in parts)
        if plain and sum(len(part) * part.dim for part in parts) <= whole_numbers:
            return _at_once(torch.cat([part.x.double() for part in parts]))
        return _by_chunks(parts, chunk_rows)


def _at_once(x: Tensor) -> Moments:
    # half a second to import, which the use of a fitted flow has no need of
    from sklearn.covariance import ledoit_wolf

    dim = x.shape[1]
    shrunk = torch.as_tensor(ledoit_wolf(x.cpu().numpy())[0], dtype=torch.float64, device=x.device)
    return Moments(x.mean(dim=0), torch.cov(x.T, correction=0).reshape(dim, dim), shrunk)


def _by_chunks(parts: Sequence[Particles], chunk_rows: int) -> Moments:
    """From sums over chunks of rows, each row by its weight; n is the effective number of rows."""
    dim = parts[0].dim
    total, first, squares = _zeros(parts), _zeros(parts, dim), _zeros(parts)
    for x, weight in _chunks(parts, chunk_rows):
        total += weight.sum()
        first += weight @ x
        squares += weight.square().sum()
    mean, n = first / total, float(total.square() / squares)
    covariance, fourth = _zeros(parts, dim, dim), _zeros(parts)
    for x, weight in _chunks(parts, chunk_rows):
        centred = x - mean
        covariance += (centred * weight[:, None]).T @ centred / total
        fourth += weight @ centred.square().sum(dim=1).square() / total
    return _shrunk(mean, covariance, fourth, n)


def _shrunk(mean: Tensor, covariance: Tensor, fourth: Tensor, n: float) -> Moments:
    """The moments with S*, from S, E|x-m|^4 and the number of rows."""
    dim = len(mean)
    mu, square = covariance.trace() / dim, covariance.square().sum()
    spread = (square - dim * mu**2) / dim
    error = torch.minimum((fourth - square) / (n * dim), spread)
    share = error / spread if spread > 0 else torch.zeros_like(spread)  # 0 / 0 where S is mu I, as for d = 1
    identity = torch.eye(dim, dtype=torch.float64, device=mean.device)
    return Moments(mean, covariance, (1 - share) * covariance + share * mu * identity)


def _chunks(parts: Sequence[Particles], chunk_rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions and weights of a chunk of rows at a time, float64."""
    for part in parts:
        for chunk in part.chunks(chunk_rows):
            x = chunk.x.double()
            yield x, x.new_ones(len(x)) if chunk.weight is None else chunk.weight.to(x)


def _zeros(parts: Sequence[Particles], *shape: int) -> Tensor:
    return parts[0].rows(slice(0, 0)).x.new_zeros(shape, dtype=torch.float64)

r"""Mean and covariance of rows, as they are and shrunk, of any number of rows.

    m = E[x],   S = E[(x-m)(x-m)^T],   S* = (1 - rho) S + rho mu I,   mu = tr S / d
    rho = min(b, e)/e,   e = |S - mu I|_F^2 / d,   b = (E|x-m|^4 - |S|_F^2) / (n d)

Up to 64 MB of float64 the sums are taken at once; beyond, a chunk of rows at a time. Source: Ledoit & Wolf
(2004), "A well-conditioned estimator for large-dimensional covariance matrices", section 3.2; the form is
scikit-learn's `ledoit_wolf`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from jkoflow.storage.scratch import CHUNK_ROWS

__all__ = ["Moments"]

_WHOLE_NUMBERS = 2**23


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
    def of(cls, *parts: Tensor) -> Moments:
        """The moments of all rows together, each part of shape `(n_k, d)`."""
        if sum(part.numel() for part in parts) <= _WHOLE_NUMBERS:
            return _at_once(torch.cat([part.double() for part in parts]))
        return _by_chunks(parts)


def _at_once(x: Tensor) -> Moments:
    dim = x.shape[1]
    shrunk = torch.as_tensor(ledoit_wolf(x.cpu().numpy())[0], dtype=torch.float64, device=x.device)
    return Moments(x.mean(dim=0), torch.cov(x.T, correction=0).reshape(dim, dim), shrunk)


def _by_chunks(parts: Sequence[Tensor]) -> Moments:
    n, dim = sum(len(part) for part in parts), parts[0].shape[1]
    mean = sum((x.sum(dim=0) for x in _chunks(parts)), start=_zeros(parts, dim)) / n
    covariance, fourth = _zeros(parts, dim, dim), _zeros(parts)
    for x in _chunks(parts):
        centred = x - mean
        covariance += centred.T @ centred / n
        fourth += centred.square().sum(dim=1).square().sum() / n
    mu, square = covariance.trace() / dim, covariance.square().sum()
    spread = (square - dim * mu**2) / dim
    error = torch.minimum((fourth - square) / (n * dim), spread)
    share = error / spread if spread > 0 else torch.zeros_like(spread)  # 0 / 0 where S is mu I, as for d = 1
    identity = torch.eye(dim, dtype=torch.float64, device=mean.device)
    return Moments(mean, covariance, (1 - share) * covariance + share * mu * identity)


def _chunks(parts: Sequence[Tensor]) -> Iterator[Tensor]:
    for part in parts:
        yield from (chunk.double() for chunk in torch.split(part, CHUNK_ROWS))


def _zeros(parts: Sequence[Tensor], *shape: int) -> Tensor:
    return parts[0].new_zeros(shape, dtype=torch.float64)

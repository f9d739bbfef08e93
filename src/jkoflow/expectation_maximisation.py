r"""The Gaussian mixture of largest likelihood by EM, both steps of an iteration as products of matrices.

    log pi_k N(x; m_k, C_k) = F(x) . w_k,    F(x) = (1, x_i, x_i x_j for i <= j)
    E:  r_k(x) = softmax_k F(x) . w_k        M:  S_k = sum_rows r_k(x) F(x),  pi_k, m_k, C_k from S_k

A density of the exponential family is linear in its sufficient statistics F, so that the cost of an iteration
is two products of the rows' statistics, a chunk of rows at a time; rows are columns here, since a processor
multiplies such matrices faster. All of it is in float64: the terms of a
narrow component cancel. Source: Dempster, Laird & Rubin (1977), J. R. Stat. Soc. B 39(1), example 4.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from jkoflow.blocks.mixture_quantile import LEAST_LOG

__all__ = ["CARRIED_ROWS", "Mixture", "maximise_likelihood"]

_CHUNK_NUMBERS = 2**18
"""Of a chunk's statistics and of its responsibilities, 2 MB: what stays in a core's cache."""
_KEPT_NUMBERS = 2**23
"""Statistics, 64 MB, up to which they are kept from iteration to iteration."""
CARRIED_ROWS = 40_000
"""Whose responsibilities are returned: enough to start from."""
_SMALLEST_SIZE = 1e-15
"""Of a component, rows."""


@dataclass(frozen=True)
class Mixture:
    """sum_k pi_k N(m_k, C_k), float64.

    Arguments:
        weights: pi, shape `(K,)`.
        means: m, shape `(K, p)`.
        covariances: C, shape `(K, p, p)`.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def coefficients(self) -> Tensor:
        """w, shape `(K, f)`: log pi_k N(x; m_k, C_k) = F(x) . w_k.

        Raises:
            ValueError: A covariance is not positive definite.
        """
        factors, failed = torch.linalg.cholesky_ex(self.covariances)
        if bool(failed.any()):
            raise ValueError("covariance: expected a positive definite one, got rounding errors")
        precisions = torch.cholesky_inverse(factors)
        linear = (precisions @ self.means[..., None]).squeeze(-1)
        row, column = _pairs(self.means.shape[1], self.means.device)
        quadratic = torch.where(row == column, -0.5, -1.0) * precisions[:, row, column]
        log_det = factors.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        constant = self.weights.log() - log_det - 0.5 * (linear * self.means).sum(dim=1)
        constant = constant - 0.5 * self.means.shape[1] * math.log(2 * math.pi)
        return torch.cat([constant[:, None], linear, quadratic], dim=1)


def maximise_likelihood(
    x: Tensor,
    responsibilities: Tensor,
    *,
    tolerance: float,
    most_iterations: int,
    floor: float,
) -> tuple[Mixture, Tensor]:
    """The mixture that EM comes to, and who is whose there.

    Arguments:
        x: Rows, shape `(n, p)`, float64, of about unit size in every direction.
        responsibilities: To start from, shape `(m, K)`, of the first m rows.
        tolerance: Gain of an iteration, nats a row, below which it ends.
        most_iterations: It ends there in any case.
        floor: What is added to every variance.

    Returns:
        The mixture, and the responsibilities of the first `CARRIED_ROWS` rows, float32, shape `(m, K)`.

    Raises:
        ValueError: A covariance is not positive definite.
    """
    chunk = max(1, _CHUNK_NUMBERS // max(responsibilities.shape[1], _n_statistics(x.shape[1])))
    p, rows, before = x.shape[1], _Rows(x, chunk), -math.inf
    sums = x.new_zeros(_n_statistics(p), responsibilities.shape[1])
    for statistics, given in zip(rows, torch.split(responsibilities, chunk), strict=False):
        sums += statistics[:, : len(given)] @ given.to(x)
    mixture = _of_sums(sums, p, floor)
    for _ in range(most_iterations):
        sums, log_likelihood = _expected(mixture, rows)
        mixture = _of_sums(sums, p, floor)
        if abs(log_likelihood - before) < tolerance:
            break
        before = log_likelihood
    w = mixture.coefficients()
    found, start = torch.empty(min(len(x), CARRIED_ROWS), len(w), device=x.device), 0
    for part in _Rows(x[:CARRIED_ROWS], chunk):
        found[start : start + part.shape[1]] = (w @ part).softmax(dim=0).T
        start += part.shape[1]
    return mixture, found


class _Rows:
    """The statistics of rows, a chunk at a time; kept where they are few, else computed again."""

    def __init__(self, x: Tensor, chunk: int) -> None:
        self._parts = torch.split(x, chunk)
        kept = len(x) * _n_statistics(x.shape[1]) <= _KEPT_NUMBERS
        self._kept = [_statistics(part) for part in self._parts] if kept else None

    def __iter__(self) -> Iterator[Tensor]:
        yield from map(_statistics, self._parts) if self._kept is None else self._kept


def _expected(mixture: Mixture, rows: _Rows) -> tuple[Tensor, float]:
    """The step E: sums of statistics `(f, K)`, and the mean log-likelihood of the rows, nats."""
    w, total, count = mixture.coefficients(), 0.0, 0
    sums = torch.zeros_like(w.T)
    for statistics in rows:
        joint = w @ statistics
        largest = joint.amax(dim=0)
        share = joint.sub_(largest).clamp_min_(LEAST_LOG).exp_()
        size = share.sum(dim=0)
        total, count = total + float((largest + size.log()).sum()), count + len(size)
        sums += statistics @ share.div_(size).T
    return sums, total / count


def _of_sums(sums: Tensor, p: int, floor: float) -> Mixture:
    """The step M, from sums of statistics `(f, K)` of p columns."""
    size = sums[0] + _SMALLEST_SIZE
    moments = (sums[1:] / size).T
    means, (row, column) = moments[:, :p], _pairs(p, sums.device)
    covariances = sums.new_empty(len(size), p, p)
    covariances[:, row, column] = moments[:, p:]
    covariances[:, column, row] = moments[:, p:]
    covariances -= means[:, :, None] * means[:, None, :]
    covariances.diagonal(dim1=1, dim2=2).add_(floor)
    return Mixture(size / size.sum(), means, covariances)


def _n_statistics(p: int) -> int:
    return 1 + p + p * (p + 1) // 2


def _statistics(x: Tensor) -> Tensor:
    """F(x), shape `(f, n)`."""
    columns, (row, column) = x.T.contiguous(), _pairs(x.shape[1], x.device)
    return torch.cat([x.new_ones(1, len(x)), columns, columns[row] * columns[column]])


def _pairs(p: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """All i <= j below p."""
    row, column = torch.triu_indices(p, p, device=device)
    return row, column

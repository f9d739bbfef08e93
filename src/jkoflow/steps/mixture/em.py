r"""The Gaussian mixture of largest likelihood by EM, both steps of an iteration as products of matrices.

    log pi_k N(x; m_k, C_k) = F(x) . w_k,    F(x) = (1, x_i, x_i x_j for i <= j)
    E:  r_k(x) = softmax_k F(x) . w_k        M:  S_k = sum_rows r_k(x) F(x),  pi_k, m_k, C_k from S_k

A density of the exponential family is linear in its sufficient statistics F, so that the cost of an iteration
is two products of the rows' statistics, a chunk of rows at a time; rows are columns here, since a processor
multiplies such matrices faster. All of it is in float64: the terms of a narrow component cancel. A row of
weight w counts w times in every sum. Several processes that have the same rows divide the chunks of the step
E among them, and add up their sums in the order of the chunks. Source: Dempster, Laird & Rubin (1977), J. R.
Stat. Soc. B 39(1), example 4.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from jkoflow.blocks.mixture_quantile import least_log
from jkoflow.laws import GaussianMixture
from jkoflow.recipe.closing import n_statistics
from jkoflow.steps.mixture.wide_em import log_joint, sums_of_shares
from jkoflow.storage.chunks import CARRIED_ROWS, EM_CHUNK_NUMBERS, EM_KEPT_NUMBERS
from jkoflow.world import ALONE, World

__all__ = ["EMRules", "maximise_likelihood"]


@dataclass(frozen=True)
class EMRules:
    """When EM ends, and how narrow a component may become.

    Arguments:
        tolerance: Gain of an iteration, nats a row, below which it ends.
        iterations: Iterations after which it ends in any case.
        floor: Number added to every variance of a component, where the rows have variance 1 in each column.
        smallest_size: Rows added to the size of every component, so that an empty one stays finite.
        wide_columns: Columns from which on sums are taken by component (`wide_em`).
    """

    tolerance: float = 1e-3
    iterations: int = 100
    floor: float = 1e-6
    smallest_size: float = 1e-15
    wide_columns: int = 32


class _Moments(NamedTuple):
    """Weights `(K,)`, means `(K, p)` and covariances `(K, p, p)` where the rows are."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def coefficients(self) -> Tensor:
        """w, shape `(K, f)`: log pi_k N(x; m_k, C_k) = F(x) . w_k."""
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
    rules: EMRules,
    *,
    weight: Tensor | None = None,
    world: World = ALONE,
    chunk_numbers: int = EM_CHUNK_NUMBERS,
    kept_numbers: int = EM_KEPT_NUMBERS,
) -> tuple[GaussianMixture, Tensor]:
    """The mixture that EM converges to, and the responsibilities under it.

    Arguments:
        x: Rows, shape `(n, p)`, float64, of about unit size in every direction.
        responsibilities: To start from, shape `(m, K)`, of the first m rows.
        rules: When it ends.
        weight: How much each row counts, shape `(n,)`; None where all count the same.
        world: The processes, each of which has all of these rows.
        chunk_numbers: Statistics, or responsibilities, of a chunk of rows.
        kept_numbers: Statistics of all rows up to which they are kept from iteration to iteration.

    Returns:
        The mixture, and the responsibilities of the first `CARRIED_ROWS` rows, float32, shape `(m, K)`.

    Raises:
        ValueError: A covariance is not positive definite.
    """
    if x.shape[1] >= rules.wide_columns:
        return _by_component(x, responsibilities, rules, weight)
    chunk = max(1, chunk_numbers // max(responsibilities.shape[1], n_statistics(x.shape[1])))
    p, rows, before = x.shape[1], _Rows(x, weight, chunk, kept_numbers), -math.inf
    sums = x.new_zeros(n_statistics(p), responsibilities.shape[1])
    for number, given in zip(range(len(rows)), torch.split(responsibilities, chunk), strict=False):
        statistics, counts = rows[number]
        share = given.to(x) if counts is None else given.to(x) * counts[: len(given), None]
        sums += statistics[:, : len(given)] @ share
    moments = _of_sums(sums, p, rules)
    for _ in range(rules.iterations):
        sums, log_likelihood = _expected(moments, rows, world)
        moments = _of_sums(sums, p, rules)
        if abs(log_likelihood - before) < rules.tolerance:
            break
        before = log_likelihood
    w = moments.coefficients()
    found, start = torch.empty(min(len(x), CARRIED_ROWS), len(w), device=x.device), 0
    for part in map(_statistics, torch.split(x[:CARRIED_ROWS], chunk)):
        found[start : start + part.shape[1]] = (w @ part).softmax(dim=0).T
        start += part.shape[1]
    return GaussianMixture.of_moments(*moments), found


def _by_component(
    x: Tensor, responsibilities: Tensor, rules: EMRules, weight: Tensor | None
) -> tuple[GaussianMixture, Tensor]:
    """The same for rows of many columns."""
    counts, before = x.new_ones(len(x)) if weight is None else weight.to(x), -math.inf
    n_rows = counts.sum()

    def moments_of(rows: Tensor, share: Tensor) -> _Moments:
        size, first, second = sums_of_shares(rows, share)
        size = size + rules.smallest_size
        means = first / size[:, None]
        covariances = second / size[:, None, None] - means[:, :, None] * means[:, None, :]
        covariances.diagonal(dim1=1, dim2=2).add_(rules.floor)
        return _Moments(size / size.sum(), means, covariances)

    given = responsibilities.to(x) * counts[: len(responsibilities), None]
    moments = moments_of(x[: len(given)], given)
    for _ in range(rules.iterations):
        joint = log_joint(x, *moments)
        nats = joint.logsumexp(dim=1)
        log_likelihood = float(counts @ nats / n_rows)
        moments = moments_of(x, joint.sub_(nats[:, None]).exp_().mul_(counts[:, None]))
        if abs(log_likelihood - before) < rules.tolerance:
            break
        before = log_likelihood
    found = log_joint(x[:CARRIED_ROWS], *moments).softmax(dim=1)
    return GaussianMixture.of_moments(*moments), found.float()


class _Rows:
    """Statistics and weights of rows, a chunk at a time; kept where they are few, else computed again."""

    def __init__(self, x: Tensor, weight: Tensor | None, chunk: int, kept_numbers: int) -> None:
        self._parts = torch.split(x, chunk)
        counts = [None] * len(self._parts) if weight is None else torch.split(weight.to(x), chunk)
        self._counts: list[Tensor | None] = list(counts)
        self._is_kept = len(x) * n_statistics(x.shape[1]) <= kept_numbers
        self._kept = dict[int, Tensor]()

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor | None]:
        """Statistics and weights of a chunk."""
        statistics = self._kept.get(number)
        if statistics is None:
            statistics = _statistics(self._parts[number])
            if self._is_kept:
                self._kept[number] = statistics
        return statistics, self._counts[number]


def _expected(moments: _Moments, rows: _Rows, world: World) -> tuple[Tensor, float]:
    """The step E: sums of statistics `(f, K)`, and the mean log-likelihood of the rows, nats."""
    w = moments.coefficients()
    if world.size == 1:
        parts = (_expected_of(w, *rows[number]) for number in range(len(rows)))
    else:
        found = world.divided(
            len(rows),
            lambda number: torch.cat([part.flatten() for part in _expected_of(w, *rows[number])])[None],
            like=w.new_empty(0, w.numel() + 2),
        )
        parts = ((row[:-2].view_as(w.T), row[-2:]) for row in found)
    sums, total, count = torch.zeros_like(w.T), 0.0, 0.0
    for part, numbers in parts:
        sums += part
        total, count = total + float(numbers[0]), count + float(numbers[1])
    return sums, total / count


def _expected_of(w: Tensor, statistics: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sums over a chunk of rows: of statistics `(f, K)`, and of log-likelihood, nats, and weights, `(2,)`."""
    joint = w @ statistics
    largest = joint.amax(dim=0)
    share = joint.sub_(largest).clamp_min_(least_log).exp_()
    size = share.sum(dim=0)
    nats = largest + size.log()
    if counts is None:
        total, weight = nats.sum(), size.new_tensor(len(size))
        return statistics @ share.div_(size).T, torch.stack([total, weight])
    total, weight = counts @ nats, counts.sum()
    return statistics @ share.mul_(counts / size).T, torch.stack([total, weight])


def _of_sums(sums: Tensor, p: int, rules: EMRules) -> _Moments:
    """The step M, from sums of statistics `(f, K)` of p columns."""
    size = sums[0] + rules.smallest_size
    moments = (sums[1:] / size).T
    means, (row, column) = moments[:, :p], _pairs(p, sums.device)
    covariances = sums.new_empty(len(size), p, p)
    covariances[:, row, column] = moments[:, p:]
    covariances[:, column, row] = moments[:, p:]
    covariances -= means[:, :, None] * means[:, None, :]
    covariances.diagonal(dim1=1, dim2=2).add_(rules.floor)
    return _Moments(size / size.sum(), means, covariances)


def _statistics(x: Tensor) -> Tensor:
    """F(x), shape `(f, n)`."""
    columns, (row, column) = x.T.contiguous(), _pairs(x.shape[1], x.device)
    return torch.cat([x.new_ones(1, len(x)), columns, columns[row] * columns[column]])


def _pairs(p: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """All i <= j below p."""
    row, column = torch.triu_indices(p, p, device=device)
    return row, column

"""Expectation-maximisation of a mixture of Gaussians whose covariances are shrunk towards the pooled one.

    r_ik = w_k N(x_i; m_k, Σ_k)/Σ_l w_l N(x_i; m_l, Σ_l),    w_k = Σ_i r_ik/n,    m_k = Σ_i r_ik x_i/(n w_k),
    S_k = Σ_i r_ik (x_i - m_k)(x_i - m_k)ᵀ/(n w_k)
    Σ_k = (1 - lambda) S_k + lambda Σ_l w_l S_l + rho I

At lambda = 0 a step is that of scikit-learn's `GaussianMixture` with `reg_covar` rho. It is written anew for
speed: with few columns all log-densities are one matrix product with the products x_a x_b, with many a
component's moments are taken over the rows that it has a share in. Source: Dempster, Laird & Rubin (1977);
for the shrinkage Friedman (1989), Regularized Discriminant Analysis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from density import Reals
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture
from torch import Tensor

__all__ = [
    "Components",
    "Moments",
    "Rows",
    "Setting",
    "clusters",
    "expected",
    "maximised",
    "mean_log_prob",
    "wide_normal",
    "with_background",
]

CHUNK_NUMBERS, FEWEST_CHUNK_ROWS = 2**18, 512
"""Log-densities computed at once: what a cache holds."""
MOST_COLUMNS_AS_PRODUCTS = 24
LEAST_SHARE = 1e-9
"""A row counts in a component's moments from this responsibility on, where columns are many."""
CLUSTERED_ROWS, CLUSTERED_ROWS_PER_COMPONENT, CLUSTERING_ITERATIONS = 5000, 50, 20


@dataclass(frozen=True)
class Setting:
    """What is set before the rows are seen.

    Arguments:
        components: K.
        ridge: rho, added to every variance.
        shrinkage: lambda in [0, 1], the pooled covariance's part.
    """

    components: int
    ridge: float
    shrinkage: float


@dataclass(frozen=True)
class Components:
    """Weights `(K,)`, means `(K, d)`, covariances `(K, d, d)` and their Cholesky factors, float64."""

    weights: Tensor
    means: Tensor
    covariances: Tensor
    roots: Tensor

    def estimator(self) -> GaussianMixture:
        """The same mixture as scikit-learn's fitted estimator."""
        found = GaussianMixture(len(self.weights))
        found.weights_, found.means_, found.covariances_ = (
            part.numpy() for part in (self.weights / self.weights.sum(), self.means, self.covariances)
        )
        found.precisions_cholesky_ = _inverse_roots(self).mT.contiguous().numpy()
        found.converged_ = True
        return found


@dataclass(frozen=True)
class Moments:
    """Σ r `(K,)`, Σ r (x - c) `(K, d)`, Σ r (x - c)(x - c)ᵀ `(K, d, d)` of each component.

    Arguments:
        counts: Σ r.
        centres: c `(K, d)`, near the components' means, against rounding.
        first: Σ r (x - c).
        second: Σ r (x - c)(x - c)ᵀ.
        mean_log_prob: Of the rows, under the components that gave the responsibilities, nats.
    """

    counts: Tensor
    centres: Tensor
    first: Tensor
    second: Tensor
    mean_log_prob: float


class Rows:
    """Rows `(n, d)` as the steps need them: products in float64, or where d is large, the rows in float32."""

    def __init__(self, rows: Reals) -> None:
        self.values = torch.as_tensor(rows, dtype=torch.float64)
        self.products: Tensor | None = None
        dim = self.values.shape[1]
        self.pairs = torch.triu_indices(dim, dim)
        if dim <= MOST_COLUMNS_AS_PRODUCTS:
            one = self.values.new_ones(len(self.values), 1)
            products = self.values[:, self.pairs[0]] * self.values[:, self.pairs[1]]
            self.products = torch.cat([one, self.values, products], dim=1)
        self.single = self.values.float()

    def __len__(self) -> int:
        return len(self.values)


def mean_log_prob(rows: Rows, components: Components) -> float:
    """Mean log-likelihood of the rows, nats."""
    coefficients = _coefficients(rows, components)
    parts = [
        _joint(rows, components, coefficients, part).logsumexp(dim=1).sum(dtype=torch.float64)
        for part in _chunks(rows, components)
    ]
    return float(torch.stack(parts).sum()) / len(rows)


def wide_normal(rows: Rows, spread: float) -> Components:
    """One component with the rows' mean and `spread`² times their covariance, weight 1."""
    covariance = spread**2 * torch.cov(rows.values.mT).reshape(1, *2 * rows.values.shape[1:])
    mean = rows.values.mean(dim=0, keepdim=True)
    return Components(mean.new_ones(1), mean, covariance, torch.linalg.cholesky(covariance))


def with_background(components: Components, background: Components, weight: float) -> Components:
    """The mixture with so much of the background in it."""
    weights = torch.cat([(1 - weight) * components.weights, weight * background.weights])
    return Components(
        weights,
        torch.cat([components.means, background.means]),
        torch.cat([components.covariances, background.covariances]),
        torch.cat([components.roots, background.roots]),
    )


def clusters(rows: Rows, components: int, seed: int) -> Moments:
    """Moments of the clusters that k-means finds in some of the rows."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    chosen = rows.values[order[: CLUSTERED_ROWS + CLUSTERED_ROWS_PER_COMPONENT * components]]
    means = KMeans(components, n_init=1, max_iter=CLUSTERING_ITERATIONS, random_state=seed)
    labels = torch.as_tensor(means.fit_predict(chosen.numpy()).astype(np.int64))
    centres = torch.as_tensor(means.cluster_centers_, dtype=torch.float64)
    found = _nothing(centres)
    for k in range(components):
        mine = chosen[labels == k] - centres[k]
        found.counts[k], found.first[k], found.second[k] = len(mine), mine.sum(dim=0), mine.mT @ mine
    return found


def maximised(moments: Moments, setting: Setting) -> Components:
    """The components that follow from the moments."""
    counts = moments.counts + 10 * torch.finfo(torch.float64).eps
    shift = moments.first / counts[:, None]
    scatter = moments.second / counts[:, None, None] - shift[:, :, None] * shift[:, None, :]
    weights = counts / counts.sum()
    pooled = torch.einsum("k,kij->ij", weights, scatter)
    ridge = setting.ridge * torch.eye(shift.shape[1], dtype=torch.float64)
    covariances = torch.lerp(scatter, pooled.expand_as(scatter), setting.shrinkage) + ridge
    roots, failed = torch.linalg.cholesky_ex(covariances)
    if failed.any():  # a component of hardly any rows: rounding has left its covariance indefinite
        covariances[failed > 0] = pooled + ridge
        roots = torch.linalg.cholesky(covariances)
    return Components(weights, moments.centres + shift, covariances, roots)


def expected(rows: Rows, components: Components) -> Moments:
    """Moments by the responsibilities under the components."""
    coefficients, total = _coefficients(rows, components), 0.0
    centres = components.means if rows.products is None else torch.zeros_like(components.means)
    found = _nothing(centres)
    for part in _chunks(rows, components):
        joint = _joint(rows, components, coefficients, part)
        largest = joint.amax(dim=1, keepdim=True)
        shares = joint.sub_(largest).exp_()
        summed = shares.sum(dim=1, keepdim=True)
        total += float((largest + summed.log()).sum(dtype=torch.float64))
        shares /= summed
        if rows.products is not None:
            _add_products(found, shares.mT @ rows.products[part], rows.pairs)
        else:
            _add_rows(found, shares, rows.single[part])
    return replace(found, mean_log_prob=total / len(rows))


def _add_products(found: Moments, summed: Tensor, pairs: Tensor) -> None:
    dim = found.first.shape[1]
    found.counts.add_(summed[:, 0])
    found.first.add_(summed[:, 1 : dim + 1])
    found.second[:, pairs[0], pairs[1]] += summed[:, dim + 1 :]
    found.second[:, pairs[1], pairs[0]] = found.second[:, pairs[0], pairs[1]]


def _add_rows(found: Moments, shares: Tensor, rows: Tensor) -> None:
    found.counts.add_(shares.sum(dim=0))
    for k in range(shares.shape[1]):
        mine = shares[:, k] > LEAST_SHARE
        x, share = rows[mine] - found.centres[k].float(), shares[mine, k]
        weighted = x * share[:, None]
        found.first[k] += weighted.sum(dim=0)
        found.second[k] += weighted.mT @ x


def _coefficients(rows: Rows, components: Components) -> Tensor:
    """Of the products x_a x_b in each log-density, `(p, K)`; else the inverse roots, `(K, d, d)`."""
    if rows.products is None:
        return _inverse_roots(components)
    precisions = torch.cholesky_inverse(components.roots)
    linear = torch.einsum("kij,kj->ki", precisions, components.means)
    constant = _log_scale(components) - (linear * components.means).sum(dim=1) / 2
    quadratic = -precisions[:, rows.pairs[0], rows.pairs[1]]
    quadratic[:, rows.pairs[0] == rows.pairs[1]] /= 2
    return torch.cat([constant[:, None], linear, quadratic], dim=1).mT.contiguous()


def _joint(rows: Rows, components: Components, coefficients: Tensor, part: slice) -> Tensor:
    """log(w_k N(x_i; m_k, Σ_k)), `(n, K)`."""
    if rows.products is not None:
        return rows.products[part] @ coefficients
    x = rows.single[part]
    columns = [
        ((x - mean) @ root.mT).square_().sum(dim=1)
        for mean, root in zip(components.means.float(), coefficients.float(), strict=True)
    ]
    return _log_scale(components).float() - torch.stack(columns, dim=1) / 2


def _log_scale(components: Components) -> Tensor:
    log_det = components.roots.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    return components.weights.log() - log_det - components.means.shape[1] / 2 * math.log(2 * math.pi)


def _inverse_roots(components: Components) -> Tensor:
    eye = torch.eye(components.means.shape[1], dtype=torch.float64)
    return torch.linalg.solve_triangular(components.roots, eye.expand_as(components.roots), upper=False)


def _nothing(centres: Tensor) -> Moments:
    n_components, dim = centres.shape
    shapes = ((n_components,), (n_components, dim), (n_components, dim, dim))
    counts, first, second = (torch.zeros(shape, dtype=torch.float64) for shape in shapes)
    return Moments(counts, centres, first, second, math.nan)


def _chunks(rows: Rows, components: Components) -> list[slice]:
    size = max(FEWEST_CHUNK_ROWS, CHUNK_NUMBERS // max(components.means.shape))
    return [slice(start, start + size) for start in range(0, len(rows), size)]

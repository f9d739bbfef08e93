r"""The sums of EM over rows of many columns, one component at a time.

    E:  log pi_k N(x; m_k, C_k) = log pi_k - |L_k^{-1} (x - m_k)|^2/2 - log det L_k - p/2 log 2 pi
    M:  S_k = sum r_k(x),  sum r_k(x) x,  sum r_k(x) x x^T    over the rows in which r_k is not nearly 0

With p columns a row has p (p + 1)/2 products of pairs, which no cache holds for many rows at once; here the
rows stay as they are, and a row counts for the components that it belongs to alone. Source: Dempster, Laird &
Rubin (1977), J. R. Stat. Soc. B 39(1), example 4.3.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Sums", "log_joint", "sums_of_shares"]


class Sums(NamedTuple):
    """Sums over rows by component: of shares `(K,)`, of rows `(K, p)`, of their products `(K, p, p)`."""

    size: Tensor
    first: Tensor
    second: Tensor


def sums_of_shares(x: Tensor, share: Tensor, *, least_share: float = 1e-9) -> Sums:
    """The sums of rows `(n, p)` by shares `(n, K)`; shares of at most `least_share` are taken to be 0."""
    k, p = share.shape[1], x.shape[1]
    first, second = x.new_zeros(k, p), x.new_zeros(k, p, p)
    for component in range(k):
        own = share[:, component]
        rows = (own > least_share).nonzero()[:, 0]
        weighted = x[rows] * own[rows, None]
        first[component] = weighted.sum(dim=0)
        torch.mm(weighted.T, x[rows], out=second[component])
    return Sums(share.sum(dim=0), first, second)


def log_joint(x: Tensor, weights: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
    """log pi_k N(x; m_k, C_k), shape `(n, K)`, nats.

    Raises:
        ValueError: A covariance is not positive definite.
    """
    factors, failed = torch.linalg.cholesky_ex(covariances)
    if bool(failed.any()):
        raise ValueError("covariance: expected a positive definite one, got rounding errors")
    p = x.shape[1]
    identity = torch.eye(p, dtype=x.dtype, device=x.device)
    found = x.new_empty(len(x), len(weights))
    for component, factor in enumerate(factors):
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
        u = (x - means[component]) @ inverse.T
        found[:, component] = -0.5 * u.square().sum(dim=1) - factor.diagonal().log().sum()
    return found + weights.log() - 0.5 * p * math.log(2 * math.pi)

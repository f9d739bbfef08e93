r"""Sums of exponentials, and the share of each term, where terms differ by more than a float's range.

    L = log sum_k exp(a_k),    r_k = exp(a_k - L)

An exponential that is no normal number (below about e^-87 in float32, e^-708 in float64) takes the processor
thirty times as long as another one, and so does a product that is none. A mixture of narrow and wide
components has many of them. A term that lies so far below the largest is lost in the sum's rounding, so that
it is replaced by a number that is lost as well, and whose products with others are normal.
Source: ours; measured in docs/performance.md.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jkoflow.blocks.ode.velocity.perceptron import is_transformed

__all__ = ["log_sum_exp", "shares_of_sum"]


def log_sum_exp(terms: Tensor, dim: int = 1) -> Tensor:
    """log sum exp(a) over a dimension, as torch's; -inf where all terms are."""
    if terms.requires_grad or is_transformed(terms):
        return torch.logsumexp(terms, dim=dim)
    largest = terms.amax(dim=dim, keepdim=True)
    total = _exponentials(terms - largest).sum(dim=dim)
    largest = largest.squeeze(dim)
    return torch.where(largest == -math.inf, largest, largest + total.log())


def shares_of_sum(terms: Tensor, dim: int = 1) -> tuple[Tensor, Tensor]:
    """The share of each term in the sum, in place of the terms, and L, its dimension kept; no gradient.

    A term of -inf gets a share above 0 that is lost beside 1.
    """
    largest = terms.amax(dim=dim, keepdim=True)
    shares = _exponentials(terms.sub_(largest))
    total = shares.sum(dim=dim, keepdim=True)
    return shares.div_(total), largest + total.log()


def _exponentials(differences: Tensor) -> Tensor:
    """exp(a), in place, of a <= 0 that are added to 1."""
    lowest = -300.0 if differences.dtype is torch.float64 else -60.0
    return differences.clamp_min_(lowest).exp_()

r"""The published estimator: a Gaussian-kernel score and an exact discrete transport problem.

    ∇log p_n(y)    ~  ∇log Σ_j exp(-|y - y_j|²/(2 h)) = (Σ_j w_j(y) y_j - y)/h
    T_n^{n-1}(y_i) ~  x_{s(i)},   s = argmin Σ_i |y_i - x_{s(i)}|²,   x_j ~ p_{n-1} independent of the y_i
    xi(y_i) = ∇V(y_i) + ∇log p_n(y_i) - (x_{s(i)} - y_i)/gamma

It knows nothing of T, so it is of xi itself, the optimal-transport form; but it is not 0 at the true
minimiser: the kernel flattens the score, and two clouds of n points are about n^{-1/d} apart. What it reads
there is its floor, measured here on the exact step of the Gaussian of the same moments and number of rows.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, Appendix D; the floor on a Gaussian is ours.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from jkoflow.errors import InputError
from jkoflow.exact import GaussianState, Quadratic, jko_step, transport_map
from jkoflow.first_order.pairs import potential_gradient
from jkoflow.first_order.transport import assignment
from jkoflow.laws import Law, StandardNormal

__all__ = ["kernel_floor", "kernel_residual", "kernel_score"]


def kernel_score(at: Tensor, sample: Tensor, *, variance: float = 0.1, entries: int = 2**22) -> Tensor:
    """∇log of the kernel density of `sample` `(m, d)` at the rows of `at`, shape `(n, d)`.

    Arguments:
        at: Where, shape `(n, d)`.
        sample: y_j, shape `(m, d)`.
        variance: h, standardised units squared; 0.1 is that of Appendix D.
        entries: Most entries of the matrix of weights that are held at once, 2^22 are 32 MB.

    Raises:
        InputError: A variance that is not positive.
    """
    if not variance > 0:
        raise InputError(f"variance: expected a kernel variance above 0, got {variance}")
    parts = torch.split(at, max(1, entries // len(sample)))
    means = [(torch.cdist(part, sample).square() / (-2 * variance)).softmax(1) @ sample for part in parts]
    return (torch.cat(means) - at) / variance


def kernel_residual(
    before: Tensor, after: Tensor, *, gamma: float, base: Law, variance: float = 0.1
) -> Tensor:
    """xi at the rows of `after`, shape `(n, d)`.

    Arguments:
        before: Rows of p_{n-1}, shape `(n, d)`, independent of `after`.
        after: Rows of p_n, shape `(n, d)`.
        gamma: Step size; infinite for a free step, which has no transport term.
        base: q, with potential V.
        variance: h, standardised units squared; 0.1 is that of Appendix D.

    Raises:
        InputError: Clouds of different sizes, or a variance that is not positive.
    """
    if before.shape != after.shape:
        raise InputError(f"before: expected as many rows as after, {tuple(after.shape)}, got {before.shape}")
    gradient = potential_gradient(base, after) + kernel_score(after, after, variance=variance)
    if np.isinf(gamma):
        return gradient
    return gradient - (before[assignment(after, before)] - after) / gamma


def kernel_floor(
    before: Tensor,
    *,
    gamma: float,
    rows: int,
    generator: torch.Generator,
    variance: float = 0.1,
) -> float:
    """‖xi‖ as the estimator reads it where it is 0: the exact step from the Gaussian of `before`'s moments.

    Arguments:
        before: Rows of p_{n-1}, shape `(m, d)`.
        gamma: Step size of the step to q = N(0, I); infinite for a free step.
        rows: Rows of each of the two clouds.
        generator: Source of the clouds.
        variance: h, standardised units squared; 0.1 is that of Appendix D.
    """
    dim = before.shape[1]
    state = GaussianState.from_samples(before.double().cpu().numpy())
    after_state = jko_step(state, gamma, Quadratic.standard(dim))
    step = transport_map(state, after_state)
    noise = torch.randn(2, rows, dim, generator=generator, dtype=torch.float64).numpy()
    one, other = state.mean + noise @ np.linalg.cholesky(state.covariance).T
    image, other = torch.as_tensor(step(one)), torch.as_tensor(other)
    xi = kernel_residual(other, image, gamma=gamma, base=StandardNormal(dim), variance=variance)
    return float(xi.square().sum(dim=1).mean().sqrt())

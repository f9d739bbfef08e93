r"""Several critics made one: the non-negative combination that tells the two laws apart best.

    w = argmin_{w >= 0, b} E_p[softplus(-H w - b)] + E_q[softplus(H w + b)] + r |w|²,    H = (h_1, ..., h_k)

on rows that none of the critics was fitted on, so that one that has learned noise gets little weight.
Source: stacked generalisation, Wolpert (1992), Neural Networks 5, 241; Breiman (1996), Machine Learning
24, 49.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

__all__ = ["stack"]

_RIDGE = 1e-3
"""r, per nat squared: it keeps the weights finite where critics agree or separate the laws completely."""


def stack(of_p: Tensor, of_q: Tensor) -> tuple[Tensor, float]:
    """Weights `(k,)`, float64, and offset of the best combination.

    Arguments:
        of_p: h_1, ..., h_k at rows of p, shape `(n, k)`.
        of_q: The same at rows of q, shape `(m, k)`.
    """
    p, q = (np.asarray(values.double().cpu().numpy()) for values in (of_p, of_q))
    count = p.shape[1]

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = parameters[:count], parameters[count]
        at_p, at_q = p @ w + b, q @ w + b
        value = np.logaddexp(0, -at_p).mean() + np.logaddexp(0, at_q).mean() + _RIDGE * w @ w
        from_p, from_q = -expit(-at_p) / len(p), expit(at_q) / len(q)
        slope = np.append(p.T @ from_p + q.T @ from_q + 2 * _RIDGE * w, from_p.sum() + from_q.sum())
        return float(value), slope

    start = np.append(np.full(count, 1 / count), 0.0)
    limits = [(0.0, None)] * count + [(None, None)]
    found = minimize(loss, start, jac=True, bounds=limits, method="L-BFGS-B")
    return torch.as_tensor(found.x[:count]), float(found.x[count])

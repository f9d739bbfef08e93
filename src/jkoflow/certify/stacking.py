r"""Several critics made one, and several densities made one, on rows that none of them was fitted on.

    w = argmin_{w >= 0, b} E_p[softplus(-H w - b)] + E_q[softplus(H w + b)] + r |w|²,    H = (h_1, ..., h_k)
    s = argmax E_p[log sum_j s_j r_j],    s_j >= 0, sum_j s_j = 1

so that one that has learned noise gets little weight. The second is concave and solved by the steps of EM.
Source: stacked generalisation, Wolpert (1992), Neural Networks 5, 241; Breiman (1996), Machine Learning
24, 49; stacked densities, Smyth & Wolpert (1999), Machine Learning 36, 59.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

__all__ = ["mixing_shares", "stack"]

_RIDGE = 1e-3
"""r, per nat squared: it keeps the weights finite where critics agree or separate the laws completely."""

_SHARE_STEPS = 200
"""Steps of EM for the shares of densities; what they do not settle is worth less than a row."""


def stack(of_p: Tensor, of_q: Tensor) -> Tensor:
    """Weights of the best combination, shape `(k,)`, float64.

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
    return torch.as_tensor(found.x[:count])


def mixing_shares(log_densities: Tensor) -> Tensor:
    """Shares `(m,)` of the densities' best mixture, float64, of sum 1.

    The first density counts as if one more row were its alone, so that its share is never 0.

    Arguments:
        log_densities: log r_1, ..., log r_m at each row, less anything that is the same for all of them,
            shape `(n, m)`, nats.
    """
    likelihood = (log_densities - log_densities.amax(dim=1, keepdim=True)).double().exp()
    shares = torch.full_like(likelihood[0], 1 / likelihood.shape[1])
    for _ in range(_SHARE_STEPS):
        joint = likelihood * shares
        counts = (joint / joint.sum(dim=1, keepdim=True)).sum(dim=0)
        counts[0] += 1
        shares = counts / counts.sum()
    return shares

r"""The Ornstein-Uhlenbeck process to N(0, I), by the angle that it has gone.

    x_t = cos(theta t) x + sin(theta t) z,   u_t = theta (cos(theta t) z - sin(theta t) x),   z ~ N(0, I)
    cos(theta) = (1 + gamma)^{-1/2}

The law of x_t is the OU process (6) at time -log cos(theta t), run from the law of x. This theta is the one
at which the process and a proximal step of size gamma both leave a direction without spread at variance
gamma/(1 + gamma). A free step has theta = pi/2 and ends at N(0, I) itself. Source: eq. (6) and (9) of Cheng,
Lu, Tan & Xie (2024), arXiv 2310.17582.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["ou_angle", "ou_path"]


def ou_angle(gamma: float) -> float:
    """theta in (0, pi/2]: how far along the path a step of size `gamma` goes, radians."""
    return math.acos((1 + gamma) ** -0.5) if math.isfinite(gamma) else math.pi / 2


def ou_path(x: Tensor, z: Tensor, t: Tensor, theta: float) -> tuple[Tensor, Tensor]:
    """Position x_t and velocity u_t / theta of the path, each `(n, d)`, at times `t` `(n, 1)`."""
    cosine, sine = torch.cos(theta * t), torch.sin(theta * t)
    return cosine * x + sine * z, cosine * z - sine * x

r"""The Lipschitz constant of the inverse of a Runge-Kutta map, from that of its field.

    L <= (1 - P(K/steps))^{-steps},      P(s) = s + s²/2 + s³/6 + s⁴/24 < 1;      otherwise e^K

K is the constant of the field at the stage times. One Runge-Kutta step of length h is x + u(x) with
Lip(u) <= P(hK). e^K (Lemma C.2) bounds the undiscretised inverse only.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, Assumption 2, eq. (33), and Lemma C.2.
"""

from __future__ import annotations

import math

from jkoflow.blocks.base import InverseLipschitz

__all__ = ["flow_inverse_lipschitz"]


def flow_inverse_lipschitz(constant: float, *, steps: int) -> InverseLipschitz:
    """A bound on Lip(T^-1) of the map of so many Runge-Kutta steps.

    Arguments:
        constant: K with |v(x, t) - v(y, t)| <= K |x - y| at the stage times; infinite where none is known.
        steps: Runge-Kutta steps over [0, 1].
    """
    s = constant / steps
    step = s + s**2 / 2 + s**3 / 6 + s**4 / 24
    if step < 1:
        return InverseLipschitz((1 - step) ** -steps, proven=True)
    why = "solver steps so fine that e^K, of the undiscretised inverse, bounds that of the discrete block"
    return InverseLipschitz(math.exp(constant) if constant < 709 else math.inf, proven=False, assumption=why)

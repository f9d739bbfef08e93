r"""How a step of size gamma is split into parts: the backward scheme takes it whole.

    p_{n+1} = argmin_p  G(p) + W2^2(p, p_n) / (2 gamma)          (JKO, implicit Euler)

A scheme that splits, such as forward-backward, gives two parts for one step size, each with the functional
that it descends. Source: Jordan, Kinderlehrer & Otto (1998), SIAM J. Math. Anal. 29(1); Cheng, Lu, Tan & Xie
(2024), arXiv 2310.17582, eq. (17).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from jkoflow.functionals import Functional
from jkoflow.steps.step import StepSolver

__all__ = ["SCHEMES", "Part", "Scheme", "backward"]


@dataclass(frozen=True)
class Part:
    """One block of a step.

    Arguments:
        gamma: Its step size; infinite for a free step.
        functional: What it descends.
        solver: What finds it, where that is not the method's own way, as for an explicit step.
    """

    gamma: float
    functional: Functional
    solver: StepSolver | None = None


class Scheme(Protocol):
    """How a step becomes parts."""

    def __call__(self, gamma: float, functional: Functional) -> Sequence[Part]:
        """The parts of a step of size `gamma` of the functional, in their order."""


def backward(gamma: float, functional: Functional) -> Sequence[Part]:
    """One proximal step of G as it is."""
    return (Part(gamma, functional),)


SCHEMES: Mapping[str, Scheme] = MappingProxyType({"backward": backward})
"""Every scheme by name."""

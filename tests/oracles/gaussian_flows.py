"""Flows of exact proximal steps of Gaussians, whose W2, KL and residuals are known in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from jkoflow.blocks import AffineBlock
from jkoflow.certify.evidence import Evidence
from jkoflow.certify.step_errors import StepError
from jkoflow.exact import AffineError, GaussianState, Quadratic, jko_step, kl, transport_map, w2
from jkoflow.flow import Flow
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles

__all__ = ["GaussianFlow", "gaussian_flow"]


@dataclass(frozen=True)
class GaussianFlow:
    """p_0, …, p_N with the flow that takes one to the next, and the injected ‖xi_n‖ of every step."""

    states: tuple[GaussianState, ...]
    flow: Flow
    steps: tuple[StepError, ...]

    def evidence(self, n_rows: int = 3000, *, seed: int = 0) -> Evidence:
        """With rows of p_0 itself."""
        start, rng = self.states[0], np.random.default_rng(seed)
        x = rng.multivariate_normal(start.mean, start.covariance, n_rows)
        return Evidence(self.flow, Particles(torch.as_tensor(x)), seed=seed)

    def w2(self, n: int) -> float:
        return w2(self.states[n], Quadratic.standard(self.flow.dim).equilibrium)

    def kl(self, n: int) -> float:
        return kl(self.states[n], Quadratic.standard(self.flow.dim))


def gaussian_flow(dim: int, gammas: Sequence[float], *, eps: float = 0.0, mean: float = 2.0) -> GaussianFlow:
    """Steps to N(0, I) from a Gaussian that is off in mean and covariance, each with a shift of norm eps."""
    potential = Quadratic.standard(dim)
    states = [GaussianState(np.full(dim, mean / dim**0.5), np.diag(np.linspace(0.3, 2.5, dim)))]
    error = AffineError(np.eye(dim)[0] * eps, np.zeros((dim, dim)))
    blocks, steps = [], []
    for gamma in gammas:
        exact = eps == 0 or np.isinf(gamma)
        states.append(jko_step(states[-1], gamma, potential, error=None if exact else error))
        transport = transport_map(states[-2], states[-1])
        blocks.append(
            AffineBlock(
                dim=dim,
                gamma=gamma,
                matrix=torch.as_tensor(transport.matrix),
                offset=torch.as_tensor(transport.offset),
            )
        )
        steps.append(StepError(gamma, 0.0 if exact else eps))
    return GaussianFlow(tuple(states), Flow(StandardNormal(dim), blocks), tuple(steps))

r"""The published recipe of the JKO flow as a speed baseline, written from its description in plain PyTorch.

    min_theta  E|T(x)|^2/2 - E[trace] + E|x - T(x)|^2 / (2 gamma),  T = RK4 in 3 steps of v_theta(x, t)
    div v(x, t)  ~  e^T (v(x + h e, t) - v(x, t)) / h,           e one Rademacher probe for each row

Three hidden layers of 128 units, softplus(beta=20), time as one more input, Adam 1e-4, batch 2000; the trace
estimate is integrated along the same steps as the particles.

Source: Xu, Cheng & Xie (2023), "Normalizing flow neural networks by JKO scheme", arXiv 2212.14424, the recipe
that Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, train with; the code is ours, from the description. How
time enters and the size h are not part of it. Both evaluations of a difference go through the network as one
stack, the fastest plain PyTorch for these numbers that we know.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = [
    "BATCH",
    "LEARNING_RATE",
    "STEPS",
    "PublishedBlock",
    "PublishedFlow",
    "PublishedVelocity",
    "proximal_loss",
]

WIDTH, HIDDEN_LAYERS, BETA = 128, 3, 20.0
STEPS = 3
LEARNING_RATE = 1e-4
BATCH = 2000
DIFFERENCE = 1e-2
"""h of the finite difference: in float32 its rounding error and its truncation error are then of one size."""


class PublishedVelocity(nn.Module):
    """v_theta(x, t): a softplus network on x and t."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        sizes = [dim + 1, *[WIDTH] * HIDDEN_LAYERS]
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), nn.Softplus(beta=BETA)]
        self.network = nn.Sequential(*layers, nn.Linear(WIDTH, dim))

    def forward(self, x: Tensor, t: float) -> Tensor:
        """Velocity at `x` `(n, d)` and time `t`, shape `(n, d)`."""
        velocity: Tensor = self.network(torch.cat([x, x.new_full((len(x), 1), t)], dim=1))
        return velocity

    def with_divergence(self, x: Tensor, t: float, probes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Velocity `(n, d)` and the sum over `probes` of e^T (v(x + h e) - v(x)) / h, shape `(n,)`."""
        stacked = self(torch.cat([x, *(x + DIFFERENCE * probe for probe in probes)]), t)
        velocity, *moved = stacked.chunk(1 + len(probes))
        parts = [((m - velocity) * probe).sum(dim=1) for m, probe in zip(moved, probes, strict=True)]
        return velocity, torch.stack(parts).sum(dim=0) / DIFFERENCE


class PublishedBlock(nn.Module):
    """One block: the velocity, integrated by three Runge-Kutta steps."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.velocity = PublishedVelocity(dim)

    def push(self, x: Tensor, *, reverse: bool = False) -> Tensor:
        """T(x); with `reverse` the backward integration, which is how the recipe pulls."""
        t, h = (1.0, -1.0 / STEPS) if reverse else (0.0, 1.0 / STEPS)
        for _ in range(STEPS):
            k1 = self.velocity(x, t)
            k2 = self.velocity(x + h / 2 * k1, t + h / 2)
            k3 = self.velocity(x + h / 2 * k2, t + h / 2)
            k4 = self.velocity(x + h * k3, t + h)
            x, t = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), t + h
        return x

    def push_with_trace(self, x: Tensor, probes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """T(x) and the divergence integrated along the same steps, estimated by `probes`, each `(n, d)`."""
        t, h, log_det = 0.0, 1.0 / STEPS, x.new_zeros(len(x))
        for _ in range(STEPS):
            k1, l1 = self.velocity.with_divergence(x, t, probes)
            k2, l2 = self.velocity.with_divergence(x + h / 2 * k1, t + h / 2, probes)
            k3, l3 = self.velocity.with_divergence(x + h / 2 * k2, t + h / 2, probes)
            k4, l4 = self.velocity.with_divergence(x + h * k3, t + h, probes)
            x, t = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), t + h
            log_det = log_det + h / 6 * (l1 + 2 * l2 + 2 * l3 + l4)
        return x, log_det


class PublishedFlow(nn.Module):
    """Blocks in a row, without gradients."""

    def __init__(self, blocks: Sequence[PublishedBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    @torch.no_grad()
    def push(self, x: Tensor) -> Tensor:
        """T_N(...T_1(x))."""
        for block in self.blocks:
            x = block.push(x)
        return x

    @torch.no_grad()
    def pull(self, y: Tensor) -> Tensor:
        """Backward integration, last block first; its round trip is not the identity."""
        for block in reversed(self.blocks):
            y = block.push(y, reverse=True)
        return y

    @torch.no_grad()
    def log_prob(self, x: Tensor, probes: Sequence[Tensor]) -> Tensor:
        """log N(T(x); 0, I) plus the trace integral, shape `(n,)`, nats; random unless `probes` are all d."""
        total = x.new_zeros(len(x))
        for block in self.blocks:
            x, log_det = block.push_with_trace(x, probes)
            total = total + log_det
        return total - x.square().sum(dim=1) / 2 - x.shape[1] / 2 * torch.log(torch.tensor(2 * torch.pi))


def rademacher(x: Tensor, generator: torch.Generator) -> Tensor:
    """One probe of random signs per row, shape `(n, d)`."""
    return torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1


def unit_probes(x: Tensor) -> list[Tensor]:
    """The d unit directions, whose finite differences sum to the whole trace."""
    return [row.expand_as(x) for row in torch.eye(x.shape[1], dtype=x.dtype)]


def proximal_loss(block: PublishedBlock, x: Tensor, gamma: float, generator: torch.Generator) -> Tensor:
    """E[V(T(x))] - E[trace estimate] + E|x - T(x)|^2 / (2 gamma), nats."""
    y, log_det = block.push_with_trace(x, [rademacher(x, generator)])
    potential, transport = y.square().sum(dim=1) / 2, (x - y).square().sum(dim=1) / (2 * gamma)
    return (potential - log_det + transport).mean()

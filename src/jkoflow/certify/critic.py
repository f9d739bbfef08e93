r"""Critics: functions that tell samples of two laws apart, fitted on some rows to be evaluated on others.

    h = argmin E_p[softplus(-h)] + E_q[softplus(h)],    whose minimiser over all functions is log p/q

h is a small network on x, |x|² and random Fourier features at several scales, since fine structure is
invisible to a smooth critic. Source: density ratios by the logistic loss, Sugiyama, Suzuki & Kanamori (2012),
Density Ratio Estimation in Machine Learning; Fourier features, Tancik et al. (2020), arXiv 2006.10739.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from jkoflow.descent import DescentSettings, descend

__all__ = ["Critic", "Witness", "fit_critic"]

Witness = Callable[[Tensor], Tensor]
"""h: rows `(n, k)` to numbers `(n,)`, nats; it has seen none of the rows that it is evaluated on."""

_WIDTH, _FREQUENCIES = 128, 48
_DESCENT = DescentSettings(updates=600, batch=512, learning_rate=3e-3, checkpoints=15, patience=5)
_FIT_SHARE = 0.8


class Critic(nn.Module):
    """h(x), zero until it is trained.

    Arguments:
        dim: Columns of x.
        scales: Standard deviations of the features' phase w.x, one set of frequencies each.
        generator: Source of frequencies and weights.
        location: Subtracted from x first, shape `(dim,)`.
        spread: By which x is then divided, shape `(dim,)`.
    """

    def __init__(
        self,
        dim: int,
        scales: tuple[float, ...],
        generator: torch.Generator,
        location: Tensor,
        spread: Tensor,
    ) -> None:
        super().__init__()
        sets = [
            scale / math.sqrt(dim) * torch.randn(_FREQUENCIES, dim, generator=generator) for scale in scales
        ]
        self.register_buffer("frequencies", torch.cat([*sets, torch.empty(0, dim)]).to(location))
        self.register_buffer("location", location)
        self.register_buffer("spread", spread)
        sizes = (dim + 1 + 2 * len(self.frequencies), _WIDTH, _WIDTH)
        self.first, self.second = nn.Linear(sizes[0], sizes[1]), nn.Linear(sizes[1], sizes[2])
        self.out = nn.Linear(sizes[2], 1)
        for layer in (self.first, self.second):
            bound = 1 / math.sqrt(layer.in_features)
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.to(location)

    frequencies: Tensor
    location: Tensor
    spread: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """h of each row, shape `(n,)`."""
        z = (x - self.location) / self.spread
        phase = z @ self.frequencies.T
        columns = [z, z.square().mean(dim=1, keepdim=True), phase.sin(), phase.cos()]
        h: Tensor = self.out(silu(self.second(silu(self.first(torch.cat(columns, dim=1))))))
        return h[:, 0]


@dataclass(frozen=True)
class _Split:
    """Rows that a critic descends on, and rows that stop it."""

    descended: Tensor
    stopping: Tensor


def _split(rows: Tensor, generator: torch.Generator) -> _Split:
    order = torch.randperm(len(rows), generator=generator).to(rows.device)
    count = int(_FIT_SHARE * len(rows))
    return _Split(rows[order[:count]], rows[order[count:]])


def fit_critic(p: Tensor, q: Tensor, *, scales: tuple[float, ...], generator: torch.Generator) -> Critic:
    """The critic that tells rows of p from rows of q best on a fifth of them that it does not descend on.

    Arguments:
        p: Rows of the one law, shape `(n, k)`.
        q: Rows of the other, shape `(m, k)`.
        scales: See `Critic`.
        generator: Source of weights, splits and batches.

    Raises:
        NumericalError: The numbers left R at every rate that was tried.
    """
    both = torch.cat([p, q])
    spread = both.std(dim=0).clamp_min(torch.finfo(both.dtype).eps)
    critic = Critic(p.shape[1], scales, generator, both.mean(dim=0), spread)
    of_p, of_q = _split(p, generator), _split(q, generator)

    def batch(rows: Tensor) -> Tensor:
        return rows[torch.randint(len(rows), (_DESCENT.batch,), generator=generator).to(rows.device)]

    def mismatch(from_p: Tensor, from_q: Tensor) -> Tensor:
        return softplus(-critic(from_p)).mean() + softplus(critic(from_q)).mean()

    descend(
        critic,
        loss=lambda: mismatch(batch(of_p.descended), batch(of_q.descended)),
        evaluate=lambda: float(mismatch(of_p.stopping, of_q.stopping).detach()),
        settings=_DESCENT,
        block=0,
    )
    return critic.requires_grad_(False)

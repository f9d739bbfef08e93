r"""Blocks trained on draws of a known law p_0, and what that density lets one compute without estimating it.

    KL(p_0 | q_0) = E[log p_0 - log q_0],                                      x_0 ~ p_0 fresh
    log p_n(x_n)  = log p_0(x_0) - log|det dT_1^n(x_0)|,                       x_n = T_1^n(x_0)
    xi'_n(x_n)    = x_n + grad log p_n(x_n) - (x_{n-1} - x_n) / gamma_n,       eps_n = ‖xi'_n‖

xi' has the learned inverse in the place of the optimal map from p_n back to p_{n-1} (Remark 3.2). Source:
Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (22), (27)-(30) and Lemma 5.1.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jkoflow.blocks import Block
from jkoflow.flow import Flow
from jkoflow.flow.likelihood import standard_error
from jkoflow.fold import Fold, proximal_fold
from jkoflow.functionals import KL
from jkoflow.journal import Journal, Taken
from jkoflow.laws import Law, StandardNormal
from jkoflow.particles import Particles
from jkoflow.runtime import Runtime, seed_stream
from jkoflow.schedule import Schedule
from jkoflow.steps import State, StepSolver, initial_state

_CHUNK = 2500


@dataclass(frozen=True)
class Training:
    """What a training left.

    Arguments:
        flow: T_N o ... o T_1.
        steps: The record of each step, with `cpu_seconds_so_far` since the start.
        cpu_seconds: Of the fold: training, judging and pushing.
    """

    flow: Flow
    steps: tuple[dict[str, Any], ...]
    cpu_seconds: float


def train_on_law(
    law: Law, schedule: Schedule, solver: StepSolver, *, rows: int, validation_rows: int, seed: int
) -> Training:
    """Fold the steps of `schedule` over `rows` draws of `law`, as `objective="jko"` does, in float32."""
    train = law.sample(rows, seed_stream(seed, "train rows")).float()
    validation = law.sample(validation_rows, seed_stream(seed, "validation rows")).float()
    started, steps = time.process_time(), list[dict[str, Any]]()

    def note(state: State, taken: Taken, *, replayed: bool) -> None:
        del state, replayed
        steps.append({**taken.log, "cpu_seconds_so_far": time.process_time() - started})

    state = initial_state(KL(StandardNormal(law.dim)), Particles(train), Particles(validation))
    fold = Fold(solver, Runtime(seed), Journal(observe=note))
    flow = proximal_fold(state, schedule.gammas, fold).flow
    return Training(flow, tuple(steps), time.process_time() - started)


def kl_to_truth(flow: Flow, law: Law, fresh: Tensor) -> tuple[float, float]:
    """KL(p_0 | q_0) over fresh draws of the law, and its standard error, nats."""
    model = copy.deepcopy(flow).double()
    with torch.no_grad():
        gap = law.log_prob(fresh) - differentiable_log_prob(model, fresh)
    return float(gap.mean()), standard_error(gap)


def differentiable_log_prob(flow: Flow, x: Tensor) -> Tensor:
    """log q_0 of rows, shape `(n,)`, nats, in a form that can be differentiated in `x`."""
    total = x.new_zeros(len(x))
    for block in flow:
        x, log_det = block.push_with_log_det(x)
        total = total + log_det
    return flow.law.log_prob(x) + total


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The gradient in each row of a function of rows, `(n, d)` to `(n,)`; shape `(n, d)`."""
    parts = []
    for part in torch.split(x, _CHUNK):
        at = part.detach().clone().requires_grad_(True)
        parts.append(torch.autograd.grad(function(at).sum(), at)[0])
    return torch.cat(parts)


def relative_error(estimate: Tensor, truth: Tensor) -> float:
    """‖estimate - truth‖ / ‖truth‖ in L2 of the law that the rows are drawn from."""
    return float((estimate - truth).square().sum().sqrt() / truth.square().sum().sqrt())


def first_order_errors(flow: Flow, law: Law, fresh: Tensor) -> list[float]:
    """eps_n = ‖xi'_n‖ of every block, standardised units, with p_0 and so p_n exact.

    Arguments:
        flow: The trained blocks; copied, evaluated in float64.
        law: p_0.
        fresh: Draws of p_0, shape `(n, d)`, float64.
    """
    blocks = list(copy.deepcopy(flow).double())
    return [
        math.sqrt(
            float(
                torch.cat([_residual(blocks[:n], law, part) for part in torch.split(fresh, _CHUNK)])
                .square()
                .sum(dim=1)
                .mean()
            )
        )
        for n in range(1, len(blocks) + 1)
    ]


def _residual(blocks: list[Block], law: Law, x: Tensor) -> Tensor:
    """xi' of the last of `blocks` at the images of the rows `x` of p_0, shape `(n, d)`."""
    start = x.detach().clone().requires_grad_(True)
    before, at, log_density = start, start, law.log_prob(start)
    for block in blocks:
        before = at
        at, log_det = block.push_with_log_det(before)
        log_density = log_density - log_det
    # rows of J, then J^T grad log p_n = grad of the pulled-back log-density
    rows = [torch.autograd.grad(column.sum(), start, retain_graph=True)[0] for column in at.unbind(dim=1)]
    pulled_back = torch.autograd.grad(log_density.sum(), start)[0]
    score: Tensor = torch.linalg.solve(torch.stack(rows, dim=1).mT, pulled_back[:, :, None]).squeeze(2)
    residual: Tensor = at + score - (before - at) / blocks[-1].gamma
    return residual.detach()

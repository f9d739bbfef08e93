r"""Trains the next block: the map T that minimises the proximal objective over samples of p_{n-1}.

    T_n = argmin_T  E[V(T(x))] - E[log|det dT(x)|] + E|x - T(x)|^2 / (2 gamma_n),    x ~ p_{n-1}

Two trainers, the same objective: `ProximalTrainer` minimises it from the identity, as the paper does;
`WarmStartedTrainer` starts the block on the OU path of its step and then finishes it on the objective, keeping
the finish where it lowers the held-out negative log-likelihood. Nothing is back-propagated through earlier blocks.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (25).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from jkoflow.blocks import NeuralODEBlock
from jkoflow.descent import DescentSettings, descend
from jkoflow.flow import push_block_with_log_det
from jkoflow.laws import Law
from jkoflow.objective import KLObjective, push_with_log_det_by
from jkoflow.particles import Particles
from jkoflow.runtime import Runtime
from jkoflow.velocity import MLPVelocity
from jkoflow.warm_start import ou_angle, warm_start

__all__ = ["BlockTrainer", "ProximalTrainer", "Step", "Stop", "WarmStartedTrainer"]

Stop = Callable[[str, int], bool]
"""Asked at checkpoints with the phase and the updates made; True ends the phase."""

_JUDGE_ENTRIES = 2**18
_SOLVER_STEPS = (1, 2)
_SOLVER_TOLERANCE_NATS = 2e-3
_SOLVER_TOLERANCE_SHARE = 0.02


@dataclass(frozen=True)
class Step:
    """What one step is given.

    Arguments:
        number: n, from 1.
        gamma: gamma_n; infinite for a free step.
        train: Samples of p_{n-1}.
        validation: Held-out samples of p_{n-1}.
        base: q.
        runtime: Device, dtype, seed.
        stop: See `Stop`.
        round: Number of the whole fit, from 0, when step sizes are re-parametrised.
    """

    number: int
    gamma: float
    train: Particles
    validation: Particles
    base: Law
    runtime: Runtime
    stop: Stop = lambda phase, updates: False
    round: int = 0

    def stream(self, name: str) -> torch.Generator:
        """The step's own source of randomness of that name."""
        return self.runtime.stream(name, self.round, self.number)

    @property
    def objective(self) -> KLObjective:
        """The proximal objective of this step."""
        return KLObjective(self.base, self.gamma)


class BlockTrainer(Protocol):
    """A way to train one block."""

    def __call__(self, step: Step) -> tuple[NeuralODEBlock, dict[str, Any]]:
        """The trained block and what was done, for the record."""


@dataclass(frozen=True)
class NetworkSettings:
    """The velocity network of every block; see `MLPVelocity`."""

    width: int = 128
    depth: int = 3
    n_frequencies: int = 32
    frequency_scale: float = 1.0


@dataclass(frozen=True)
class ProximalTrainer:
    """Minimises the proximal objective from the identity.

    Arguments:
        network: The velocity network.
        descent: Updates, batch and rate.
        divergence: How training sees the log-determinant; see `objective.DIVERGENCES`.
        steps: Runge-Kutta steps of the block.
    """

    network: NetworkSettings
    descent: DescentSettings
    divergence: str = "auto"
    steps: int = 2

    def __call__(self, step: Step) -> tuple[NeuralODEBlock, dict[str, Any]]:
        """Train the block of `step` on the proximal objective alone."""
        block = new_block(step, self.network, steps=self.steps)
        done = finish_on_objective(block, step, self.descent, self.divergence)
        return block, {
            "updates": {"warm_start": 0, "proximal": done["updates"]},
            "finished_on": "proximal",
            "retries": done["retries"],
        }


@dataclass(frozen=True)
class WarmStartedTrainer:
    """Starts a block on the OU path of its step, then finishes it on the proximal objective.

    Arguments:
        network: The velocity network.
        start: Updates, batch and rate of the regression.
        finish: The same of the proximal objective; None for no finish.
        divergence: How the finish sees the log-determinant.
    """

    network: NetworkSettings
    start: DescentSettings
    finish: DescentSettings | None
    divergence: str = "auto"

    def __call__(self, step: Step) -> tuple[NeuralODEBlock, dict[str, Any]]:
        """Train the block of `step`; the finish is kept only where it lowers the held-out NLL."""
        block = new_block(step, self.network, steps=1)
        started = warm_start(
            block,
            step.train,
            step.validation,
            settings=self.start,
            generator=step.stream("warm_start"),
            number=step.number,
            stop=lambda updates: step.stop("warm_start", updates),
        )
        record: dict[str, Any] = {
            "updates": {"warm_start": started.updates, "proximal": 0},
            "best_update": started.best_update,
            "finished_on": "warm_start",
            "retries": started.retries,
        }
        if started.best_update == 0:  # nothing to learn at this scale: the block is still the identity
            return block, record
        judged = judged_rows(step.validation)
        block, before = with_chosen_steps(block, step.base, judged)
        if self.finish is None:
            return block, record
        finished = copy.deepcopy(block)
        done = finish_on_objective(finished, step, self.finish, self.divergence)
        after = nll_after(finished, step.base, judged)
        record["updates"]["proximal"], record["proximal_nll_gain_nats"] = done["updates"], before - after
        record["retries"] += done["retries"]
        if after < before:
            return finished, record | {"finished_on": "proximal"}
        return block, record


def new_block(step: Step, network: NetworkSettings, *, steps: int) -> NeuralODEBlock:
    """An untrained block, the identity map, sized to the particles it will move."""
    velocity = MLPVelocity(
        dim=step.train.dim,
        context_dim=step.train.context_dim,
        width=network.width,
        depth=network.depth,
        n_frequencies=network.n_frequencies,
        frequency_scale=network.frequency_scale,
        generator=step.stream("initial_weights"),
    ).to(device=step.runtime.device, dtype=step.runtime.dtype)
    velocity.set_reach(step.train.x, displacement=ou_angle(step.gamma))
    return NeuralODEBlock(velocity, gamma=step.gamma, steps=steps)


def finish_on_objective(
    block: NeuralODEBlock, step: Step, settings: DescentSettings, divergence: str
) -> dict[str, int]:
    """Descend on the proximal objective in place; judged by the determinant on held-out rows."""
    generator = step.stream("proximal")
    push = push_with_log_det_by(divergence, dim=block.dim, generator=generator)
    judged, objective = judged_rows(step.validation), step.objective

    def loss() -> Tensor:
        return objective.terms(block, step.train.draw(settings.batch, generator), None, push).total

    def evaluate() -> float:
        y, log_det = push_block_with_log_det(block, judged)
        return float(objective.terms_of(judged.x, y, log_det).total)

    done = descend(
        block,
        loss=loss,
        evaluate=evaluate,
        settings=settings,
        block=step.number,
        stop=lambda updates: step.stop("proximal", updates),
    )
    return {"updates": done.updates, "retries": done.retries}


def judged_rows(validation: Particles) -> Particles:
    """The held-out rows that decisions inside a step look at: as many as d tangents each leave affordable."""
    return validation.rows(slice(0, max(256, _JUDGE_ENTRIES // validation.dim**2)))


def nll_after(block: NeuralODEBlock, base: Law, judged: Particles) -> float:
    """E[V(T(x))] - E[log|det dT(x)|]: the held-out NLL that the block leaves, up to what earlier blocks fixed."""
    y, log_det = push_block_with_log_det(block, judged)
    return float((base.potential(y) - log_det).mean())


def with_chosen_steps(
    block: NeuralODEBlock, base: Law, judged: Particles
) -> tuple[NeuralODEBlock, float]:
    """The same field at the fewest solver steps whose held-out NLL is within 0.002 nats of the best."""
    candidates = [NeuralODEBlock(block.velocity, gamma=block.gamma, steps=steps) for steps in _SOLVER_STEPS]
    nlls = [nll_after(candidate, base, judged) for candidate in candidates]
    best = min(nlls)
    for candidate, nll in zip(candidates, nlls, strict=True):
        if nll <= best + _SOLVER_TOLERANCE_NATS:
            return candidate, nll
    return candidates[-1], nlls[-1]

r"""Trains the next block: the map T that minimises the proximal objective over samples of p_{n-1}.

    T_n = argmin_T  E[V(T(x))] - E[log|det dT(x)|] + E|x - T(x)|^2 / (2 gamma_n),    x ~ p_{n-1}

Two trainers, the same objective: `ProximalTrainer` minimises it from the identity, as the paper does;
`WarmStartedTrainer` starts the block on the OU path of its step and then finishes it on the objective,
keeping the finish where it lowers the held-out negative log-likelihood. Nothing is back-propagated through
earlier blocks.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (25).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from jkoflow.blocks import NeuralODEBlock
from jkoflow.descent import DescentSettings, descend
from jkoflow.flow import push_block_with_log_det
from jkoflow.objective import push_with_log_det_by
from jkoflow.solver_steps import (
    invertible,
    judged_rows,
    nll_after,
    rows_not_inverted,
    with_checked_trace,
    with_chosen_steps,
)
from jkoflow.step import NetworkSettings, Step, new_block
from jkoflow.warm_start import warm_start

__all__ = [
    "BlockTrainer",
    "DispatchedTrainer",
    "IdentityTrainer",
    "ProximalTrainer",
    "StartTrainer",
    "WarmStartedTrainer",
    "finish_on_objective",
]


class BlockTrainer(Protocol):
    """A way to train one block."""

    def __call__(self, step: Step) -> tuple[NeuralODEBlock, dict[str, Any]]:
        """The trained block and what was done, for the record."""


@dataclass(frozen=True)
class DispatchedTrainer:
    """A trainer that is looked up for each step."""

    trainer_of: Callable[[Step], BlockTrainer]

    def __call__(self, step: Step) -> tuple[NeuralODEBlock, dict[str, Any]]:
        """Train the block of `step` with its own trainer."""
        return self.trainer_of(step)(step)


@dataclass(frozen=True)
class IdentityTrainer:
    """Leaves the block the identity, which is dropped: for a step that a budget has no time for."""

    network: NetworkSettings

    def __call__(self, step: Step) -> tuple[NeuralODEBlock, dict[str, Any]]:
        """The untrained block of `step`."""
        done = {"updates": {"warm_start": 0, "proximal": 0}, "finished_on": "warm_start", "retries": 0}
        return new_block(step, self.network, steps=1), done


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
        block = invertible(block, step)
        return with_checked_trace(block, step.validation), {
            "updates": {"warm_start": 0, "proximal": done["updates"]},
            "finished_on": "proximal",
            "retries": done["retries"],
        }


@dataclass(frozen=True)
class StartTrainer:
    """The start of a block alone, at one solver step and unchecked: for short fits that are thrown away.

    Arguments:
        network: The velocity network.
        start: Updates, batch and rate of the regression.
    """

    network: NetworkSettings
    start: DescentSettings

    def __call__(self, step: Step) -> tuple[NeuralODEBlock, dict[str, Any]]:
        """The block of `step` on its OU path, best on held-out rows."""
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
        return block, {
            "updates": {"warm_start": started.updates, "proximal": 0},
            "best_update": started.best_update,
            "finished_on": "warm_start",
            "retries": started.retries,
        }


@dataclass(frozen=True)
class WarmStartedTrainer:
    """Starts a block on the OU path of its step, then finishes it on the proximal objective.

    Arguments:
        network: The velocity network.
        start: Updates, batch and rate of the regression.
        finish: The same of the proximal objective at one solver step, at s steps an s-th of the updates; None
            for no finish.
        divergence: How the finish sees the log-determinant.
    """

    network: NetworkSettings
    start: DescentSettings
    finish: DescentSettings | None
    divergence: str = "auto"

    def __call__(self, step: Step) -> tuple[NeuralODEBlock, dict[str, Any]]:
        """Train the block of `step`; the finish is kept only where it lowers the held-out NLL."""
        block, record = self._trained(step)
        return with_checked_trace(block, step.validation), record

    def _trained(self, step: Step) -> tuple[NeuralODEBlock, dict[str, Any]]:
        block, record = StartTrainer(self.network, self.start)(step)
        if record["best_update"] == 0:  # nothing to learn at this scale: the block is still the identity
            return block, record
        judged = judged_rows(step.validation)
        chosen = with_chosen_steps(block, step, judged)
        block, before = chosen.block, chosen.nll
        if self.finish is None:
            return block, record
        finished = copy.deepcopy(block)
        # an update costs as much as the block has solver steps: the finish of a fine map has fewer
        finish = replace(self.finish, updates=max(1, self.finish.updates // block.steps))
        done = finish_on_objective(finished, step, finish, self.divergence)
        after = nll_after(finished, step.base, judged)
        record["updates"]["proximal"], record["proximal_nll_gain_nats"] = done["updates"], before - after
        record["retries"] += done["retries"]
        if after < before and rows_not_inverted(finished, step, judged) <= chosen.missed:
            return finished, record | {"finished_on": "proximal"}
        return block, record


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

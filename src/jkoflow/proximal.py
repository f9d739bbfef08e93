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
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from jkoflow.blocks import DETERMINANT_DIM, NeuralODEBlock, default_tolerance
from jkoflow.descent import DescentSettings, descend
from jkoflow.flow import push_block_with_log_det
from jkoflow.laws import Law
from jkoflow.objective import KLObjective, push_with_log_det_by
from jkoflow.particles import Particles
from jkoflow.runtime import Runtime
from jkoflow.velocity import MLPVelocity
from jkoflow.warm_start import ou_angle, warm_start

__all__ = [
    "BlockTrainer",
    "DispatchedTrainer",
    "IdentityTrainer",
    "ProximalTrainer",
    "StartTrainer",
    "Step",
    "Stop",
    "WarmStartedTrainer",
]

Stop = Callable[[str, int], bool]
"""Asked at checkpoints with the phase and the updates made; True ends the phase."""

_JUDGE_ENTRIES, _JUDGE_ROWS = 2**18, 64
_SOLVER_STEPS = (1, 2, 4)
_MOST_SOLVER_STEPS = 32
_SOLVER_TOLERANCE_NATS = 2e-3
_SOLVER_TOLERANCE_SHARE = 0.02
_TRACE_ROWS, _TRACE_CHUNK, _TRACE_DOUBLINGS = 256, 16, 6
_TRACE_TOLERANCE_NATS = 1e-3
_INVERTED_ROWS = 1024
_FOLD_TANGENTS = 2**15
"""Rows times columns that a determinant's sign is looked at for."""


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
        block = _invertible(block, step)
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
        finish: The same of the proximal objective; None for no finish.
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
        done = finish_on_objective(finished, step, self.finish, self.divergence)
        after = nll_after(finished, step.base, judged)
        record["updates"]["proximal"], record["proximal_nll_gain_nats"] = done["updates"], before - after
        record["retries"] += done["retries"]
        if after < before and rows_not_inverted(finished, step, judged) <= chosen.missed:
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


def _invertible(block: NeuralODEBlock, step: Step) -> NeuralODEBlock:
    """The block, at more solver steps where its map cannot be inverted."""
    judged = judged_rows(step.validation)
    missed, nll = rows_not_inverted(block, step, judged), nll_after(block, step.base, judged)
    return with_steps_doubled(_Chosen(block, nll, missed), step, judged).block


def judged_rows(validation: Particles) -> Particles:
    """The held-out rows that decisions inside a step look at: as many as d tangents each leave affordable."""
    return validation.rows(slice(0, max(_JUDGE_ROWS, _JUDGE_ENTRIES // validation.dim**2)))


def nll_after(block: NeuralODEBlock, base: Law, judged: Particles) -> float:
    """E[V(T(x))] - E[log|det dT(x)|]: the held-out NLL up to what earlier blocks fixed."""
    y, log_det = push_block_with_log_det(block, judged)
    return float((base.potential(y) - log_det).mean())


@dataclass(frozen=True)
class _Chosen:
    """A block with its held-out NLL, as `nll_after` has it, and how many rows its inverse misses."""

    block: NeuralODEBlock
    nll: float
    missed: int


def with_chosen_steps(block: NeuralODEBlock, step: Step, judged: Particles) -> _Chosen:
    """The same field at the fewest solver steps that cost little and that every row can be inverted at.

    Little is 2 % of what the block gains, and never less than 0.002 nats: what a coarse map loses the next
    block sees and mends. Where none of the usual numbers of steps inverts every row, they are doubled: the
    field's own flow is invertible, and a map that folds has a smaller NLL than any density.
    """
    identity_nll = float(step.base.potential(judged.x).mean())
    candidates = [replace_steps(block, steps) for steps in _SOLVER_STEPS]
    nll, affordable = nll_after(candidates[0], step.base, judged), []
    for candidate, finer in zip(candidates, [*candidates[1:], None], strict=True):
        finer_nll = nll if finer is None else nll_after(finer, step.base, judged)
        little = max(_SOLVER_TOLERANCE_NATS, _SOLVER_TOLERANCE_SHARE * (identity_nll - finer_nll))
        if nll - finer_nll <= little:
            affordable.append(_Chosen(candidate, nll, rows_not_inverted(candidate, step, judged)))
            if affordable[-1].missed == 0:
                return affordable[-1]
        nll = finer_nll
    # the finest costs nothing against itself; one whose NLL is no number is left to the keep rule
    best = min(affordable, key=lambda choice: choice.missed, default=_Chosen(candidates[0], nll, len(judged)))
    return with_steps_doubled(best, step, judged) if math.isfinite(best.nll) else best


def with_steps_doubled(chosen: _Chosen, step: Step, judged: Particles) -> _Chosen:
    """The block at twice the steps, and so on, until no row is missed; the one that misses fewest."""
    best = chosen
    while chosen.missed and chosen.block.steps < _MOST_SOLVER_STEPS:
        finer = replace_steps(chosen.block, 2 * chosen.block.steps)
        missed = rows_not_inverted(finer, step, judged)
        chosen = _Chosen(finer, nll_after(finer, step.base, judged), missed)
        best = min(best, chosen, key=lambda choice: choice.missed)
    return best


def rows_not_inverted(block: NeuralODEBlock, step: Step, judged: Particles) -> int:
    """How many rows the discrete map's inverse misses, or at how many the map is folded: det dT < 0.

    Inverted are held-out images, the same a quarter further out, and for a free step, which should end at q,
    draws of q itself and further out: a coarse map can fold where no particle ever was. The sign of the
    determinant is looked at in the held-out rows and in these inverse images.
    """
    with torch.no_grad():
        part = judged.rows(slice(0, _INVERTED_ROWS))
        image = block.push(part.x, part.context)
        ends = Particles(torch.cat([image, 1.25 * image]), _repeated(part.context, 2))
        if block.free:
            times = 4 * _INVERTED_ROWS // len(part)
            context = _repeated(part.context, times)
            noise = step.base.sample(times * len(part), step.stream("inverted rows")).to(image)
            reach = torch.linspace(1, 1.4, times).to(image).repeat_interleave(len(part))[:, None]
            ends = Particles(reach * noise, context)
        inverse = [block.invert(part.x, part.context) for part in ends.chunks()]
        errors = torch.cat([part.error for part in inverse])
        missed = int((errors > 10 * default_tolerance(image.dtype)).sum())
        starts = Particles(torch.cat([part.x for part in inverse]), ends.context)
        return missed + rows_folded(block, part) + rows_folded(block, starts)


def unfolded(block: NeuralODEBlock, rows: Particles) -> NeuralODEBlock:
    """The block at the fewest doublings of its solver steps at which it folds at none of the rows."""
    with torch.no_grad():
        while rows_folded(block, rows) and block.steps < _MOST_SOLVER_STEPS:
            block = replace_steps(block, 2 * block.steps)
    return block


def rows_folded(block: NeuralODEBlock, rows: Particles) -> int:
    """At how many rows det dT < 0; of very many, some are looked at, beyond `DETERMINANT_DIM` none."""
    if block.dim > DETERMINANT_DIM:
        return 0
    every = max(1, len(rows) * block.dim // _FOLD_TANGENTS)
    looked_at = rows.rows(slice(None, None, every))
    jacobian = block.push_with_jacobian(looked_at.x, looked_at.context)[1]
    return int((torch.linalg.slogdet(jacobian)[0] < 0).sum())


def _repeated(context: Tensor | None, times: int) -> Tensor | None:
    return None if context is None else context.repeat(times, 1)


def replace_steps(
    block: NeuralODEBlock, steps: int, *, trace_gap_nats: float | None = None
) -> NeuralODEBlock:
    """A block of the same field and step size with another number of solver steps."""
    return NeuralODEBlock(block.velocity, gamma=block.gamma, steps=steps, trace_gap_nats=trace_gap_nats)


@torch.no_grad()
def with_checked_trace(block: NeuralODEBlock, judged: Particles) -> NeuralODEBlock:
    """Beyond `DETERMINANT_DIM`, double the steps until trace and determinant agree to 0.001 nats.

    The mean absolute difference that was reached, on 256 rows, is stored with the block.
    """
    if block.dim <= DETERMINANT_DIM:
        return block
    rows = judged.rows(slice(0, _TRACE_ROWS))
    for doubling in range(_TRACE_DOUBLINGS + 1):
        candidate = replace_steps(block, block.steps * 2**doubling)
        gaps = []
        for part in rows.chunks(_TRACE_CHUNK):
            determinant = torch.linalg.slogdet(candidate.push_with_jacobian(part.x, part.context)[1])[1]
            trace = candidate.push_with_log_det(part.x, part.context)[1]
            gaps.append((trace - determinant).abs())
        gap = float(torch.cat(gaps).mean())
        if gap < _TRACE_TOLERANCE_NATS:
            break
    return replace_steps(block, candidate.steps, trace_gap_nats=gap)

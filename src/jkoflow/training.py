r"""From samples of p_0 and settings to a finished flow: coordinates, step sizes, then the fold.

The limit in updates of one block is

    updates = clip(10 sqrt(rows), 200, 2500),

a tenth of that for the proximal finish; with a budget it is what the remaining CPU-seconds allow. Descents
also stop on held-out rows. Everything that is chosen from the data (whether the first step is the
closed-form Gaussian one, the scale of the Fourier features) is chosen by short pilot fits on held-out NLL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from jkoflow.blocks import NeuralODEBlock
from jkoflow.budget import Decisions
from jkoflow.config import Settings
from jkoflow.descent import DescentSettings
from jkoflow.end_to_end import train_end_to_end
from jkoflow.fit import (
    FitState,
    TakenStep,
    initial_state,
    is_significant,
    proximal_fold,
    take_block,
)
from jkoflow.gaussian_step import gaussian_step, gaussian_step_on_all_rows
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles
from jkoflow.proximal import (
    BlockTrainer,
    NetworkSettings,
    ProximalTrainer,
    Step,
    WarmStartedTrainer,
    judged_rows,
    new_block,
)
from jkoflow.runtime import Runtime
from jkoflow.schedule import Schedule, resolve_schedule

__all__ = ["train_flow", "updates_per_block"]

_BATCHES = (128, 512)
WARM_START_RATE = 1e-2
FINISH_RATE = 1e-3
PROXIMAL_RATE = 5e-3
END_TO_END_RATE = 2e-3
_FINISH_SHARE = 0.1
_BUDGET_UPDATES = 20_000
_BUDGET_CHECKPOINTS = 400
_BUDGET_SHARE = 0.9
_FINISHING_COST = 10
_PILOT_ROWS, _PILOT_SHARE, _PILOT_UPDATES = 10_000, 0.125, (40, 120)
_PILOT_BLOCKS = 6
_FLOW_STANDARD_ERRORS = 2.0
"""Of the gain over the Gaussian alone, below which the Gaussian is the model: several blocks were tried on
the same rows, each kept for one."""
_PHASES = (1.0, 2.5, 6.0)
"""Standard deviation of the phase w.x at the scales tried; the entries of W have this over sqrt(d)."""


def updates_per_block(n_rows: int) -> int:
    """The documented limit in updates of one block's start."""
    return int(min(max(10 * math.sqrt(n_rows), 200), 2500))


def batch_of(n_rows: int) -> int:
    """Rows of one update: a quarter of the table, within 128 and 512."""
    low, high = _BATCHES
    return min(max(n_rows // 4, low), high)


def train_flow(
    train: Particles,
    validation: Particles,
    *,
    settings: Settings,
    runtime: Runtime,
    decisions: Decisions,
    taken: Sequence[TakenStep] = (),
) -> Iterator[tuple[FitState, TakenStep]]:
    """Train as `settings` say, yielding the state and the step after each step.

    Arguments:
        train: Samples of p_0, standardised units.
        validation: Held-out samples of p_0.
        settings: The options of the fit.
        runtime: Device, dtype, seed.
        decisions: Log and budget.
        taken: Steps that an interrupted fit had finished, in order; they are applied, not trained again.
    """
    state = initial_state(StandardNormal(train.dim), train, validation)
    if settings.objective == "end_to_end":
        yield from _end_to_end(state, settings, runtime, decisions)
    elif settings.objective == "jko":
        trainer = ProximalTrainer(
            _network(train.dim, _PHASES[0]),
            DescentSettings(updates_per_block(len(train)), batch_of(len(train)), PROXIMAL_RATE),
            settings.divergence,
        )
        yield from _rounds(
            state, settings, runtime, decisions, taken, lambda step: trainer, keep_if_better=False
        )
    else:
        yield from _automatic(state, settings, runtime, decisions, taken)


def _automatic(
    state: FitState, settings: Settings, runtime: Runtime, decisions: Decisions, taken: Sequence[TakenStep]
) -> Iterator[tuple[FitState, TakenStep]]:
    """Pilot, closed-form first step where it helps, then started and finished blocks."""
    choice = Pilot(**decisions.decide("pilot", lambda: _timed_pilot(state, settings, runtime, decisions)))
    if not choice.affine_first:
        yield from _started_blocks(state, choice, settings, runtime, decisions, taken)
        return
    whitened, first = gaussian_step(state, runtime)
    has_room = settings.max_blocks > len(whitened.flow)
    planned = whitened.number + (len(_schedule(whitened, settings, runtime).gammas) if has_room else 0)
    yield whitened, TakenStep(first.block, {**first.info, "planned": planned})
    if not has_room:
        return
    for after, step in _started_blocks(whitened, choice, settings, runtime, decisions, taken[1:]):
        yield after, step
    gain = after.held_out_log_prob - whitened.held_out_log_prob
    if not is_significant(gain, standard_errors=_FLOW_STANDARD_ERRORS):
        again = replace(state, number=after.number, nll=whitened.nll)
        alone, last = gaussian_step_on_all_rows(again, runtime, first.info["covariance"])
        yield alone, TakenStep(last.block, {**last.info, "planned": alone.number})


def _started_blocks(
    state: FitState,
    choice: Pilot,
    settings: Settings,
    runtime: Runtime,
    decisions: Decisions,
    taken: Sequence[TakenStep],
) -> Iterator[tuple[FitState, TakenStep]]:
    """Blocks that start on the OU path of their step, kept where they lower the held-out NLL."""
    network = _network(state.flow.dim, choice.phase)
    n_steps = len(_schedule(state, settings, runtime).gammas)
    pace = _Pace(updates_per_block(len(state.train)), state.number + n_steps, decisions, choice.seconds)
    yield from _rounds(
        state,
        settings,
        runtime,
        decisions,
        taken,
        lambda step: _started_trainer(network, pace.updates(step), len(step.train), settings.divergence),
        keep_if_better=True,
    )


def _rounds(
    state: FitState,
    settings: Settings,
    runtime: Runtime,
    decisions: Decisions,
    taken: Sequence[TakenStep],
    trainer_of: Callable[[Step], BlockTrainer],
    *,
    keep_if_better: bool,
) -> Iterator[tuple[FitState, TakenStep]]:
    """The fold, once for each round of the schedule; a later round starts again from p_0."""
    schedule, after = _schedule(state, settings, runtime), state
    rounds = schedule.rounds
    for round_number in range(rounds):
        after = start = replace(state, number=after.number)
        planned = start.number + (rounds - round_number) * len(schedule.gammas)
        for after, step in proximal_fold(
            start,
            schedule=schedule,
            trainer=_Dispatch(trainer_of),
            runtime=runtime,
            keep_if_better=keep_if_better,
            stop=partial(decisions.stop_at, round_number=round_number),
            taken=[done for done in taken if done.info["round"] == round_number],
            round_number=round_number,
        ):
            yield after, TakenStep(step.block, {**step.info, "round": round_number, "planned": planned})
        if round_number + 1 < rounds:
            schedule = schedule.reparametrised(after.moved)


def _schedule(state: FitState, settings: Settings, runtime: Runtime) -> Schedule:
    return resolve_schedule(
        settings.gamma,
        max_blocks=settings.max_blocks - len(state.flow),
        particles=state.train,
        generator=runtime.stream("schedule"),
    )


def _network(dim: int, phase: float) -> NetworkSettings:
    return NetworkSettings(frequency_scale=phase / math.sqrt(dim))


@dataclass(frozen=True)
class _Dispatch:
    """A trainer that is looked up for each step."""

    trainer_of: Callable[[Step], BlockTrainer]

    def __call__(self, step: Step) -> tuple[NeuralODEBlock, dict[str, Any]]:
        """Train the block of `step` with its own trainer."""
        return self.trainer_of(step)(step)


@dataclass
class _Pace:
    """How many updates each step gets: the documented limit, or what a budget leaves to it.

    Arguments:
        limit: Updates of a step without a budget.
        n_steps: Steps of the whole fit.
        decisions: Log and budget.
        seconds: CPU-seconds of one starting update, as far as known.
    """

    limit: int
    n_steps: int
    decisions: Decisions
    seconds: float
    _before: tuple[float, int] | None = None

    def updates(self, step: Step) -> int:
        """Updates for `step`; the clock is read here, between two blocks, and only under a budget."""
        if not self.decisions.limited:
            return self.limit
        return int(
            self.decisions.decide(
                "updates", lambda: self._affordable(step), block=step.number, round=step.round
            )
        )

    def _affordable(self, step: Step) -> int:
        """Updates that share the remaining CPU-seconds evenly among the steps left."""
        used, per_update = self.decisions.used(), 1 + _FINISHING_COST * _FINISH_SHARE
        if self._before is not None:
            self.seconds = (used - self._before[0]) / (self._before[1] * per_update)
        steps_left = max(1, self.n_steps - step.number + 1)
        share = _BUDGET_SHARE * self.decisions.remaining() / steps_left
        updates = int(min(max(share / (self.seconds * per_update), 20), _BUDGET_UPDATES))
        self._before = (used, updates)
        return updates


def _started_trainer(
    network: NetworkSettings, updates: int, n_rows: int, divergence: str
) -> WarmStartedTrainer:
    finish = max(10, int(_FINISH_SHARE * updates))
    return WarmStartedTrainer(
        network,
        DescentSettings(updates, batch_of(n_rows), WARM_START_RATE),
        DescentSettings(finish, batch_of(n_rows), FINISH_RATE, checkpoints=5),
        divergence,
    )


@dataclass(frozen=True)
class Pilot:
    """What the pilot fits chose.

    Arguments:
        affine_first: Whether the first step is the closed-form Gaussian one.
        phase: Standard deviation of the Fourier features' phase.
        seconds: CPU-seconds of one update of a block's start, as measured; only a budget looks at it.
    """

    affine_first: bool
    phase: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the log."""
        return {"affine_first": self.affine_first, "phase": self.phase, "seconds": self.seconds}


def _timed_pilot(
    state: FitState, settings: Settings, runtime: Runtime, decisions: Decisions
) -> dict[str, Any]:
    """The pilot's choice for the log; under a budget, with what an update cost."""
    before = decisions.used() if decisions.limited else 0.0
    choice, updates = choose_by_pilot(state, settings, runtime)
    if decisions.limited:
        choice = replace(choice, seconds=(decisions.used() - before) / max(updates, 1))
    return choice.to_dict()


def choose_by_pilot(state: FitState, settings: Settings, runtime: Runtime) -> tuple[Pilot, int]:
    """Short fits on part of the rows: with and without the Gaussian step, then other feature scales."""
    part = replace(
        state,
        train=state.train.rows(slice(0, _PILOT_ROWS)),
        validation=(judged := judged_rows(state.validation)),
        log_det=state.log_det[: len(judged)],
    )
    whitened, _ = gaussian_step(part, runtime)
    tried: dict[tuple[bool, float], float] = {}
    updates = 0

    def nll(*, affine_first: bool, phase: float) -> float:
        nonlocal updates
        if (affine_first, phase) not in tried:
            start = whitened if affine_first else part
            tried[affine_first, phase], made = _pilot_nll(start, settings, runtime, phase, len(state.train))
            updates += made
        return tried[affine_first, phase]

    affine_first = nll(affine_first=True, phase=_PHASES[1]) < nll(affine_first=False, phase=_PHASES[1])
    phase = min(_PHASES, key=lambda phase: nll(affine_first=affine_first, phase=phase))
    return Pilot(affine_first, phase, 0.0), updates


def _pilot_nll(
    state: FitState, settings: Settings, runtime: Runtime, phase: float, n_rows: int
) -> tuple[float, int]:
    """Held-out NLL of a short fit from `state`, and the updates it took."""
    schedule = resolve_schedule(
        "auto",
        max_blocks=min(settings.max_blocks, _PILOT_BLOCKS),
        particles=state.train,
        generator=runtime.stream("schedule"),
    )
    low, high = _PILOT_UPDATES
    updates = int(min(max(_PILOT_SHARE * updates_per_block(n_rows), low), high))
    trainer = WarmStartedTrainer(
        _network(state.flow.dim, phase),
        DescentSettings(updates, batch_of(n_rows), WARM_START_RATE, checkpoints=4),
        None,
    )
    nll, made = state.nll, 0
    for after, done in proximal_fold(
        state, schedule=schedule, trainer=trainer, runtime=runtime, keep_if_better=True
    ):
        nll, made = after.nll, made + done.info["updates"]["warm_start"]
    return nll, made


def _end_to_end(
    state: FitState, settings: Settings, runtime: Runtime, decisions: Decisions
) -> Iterator[tuple[FitState, TakenStep]]:
    """The same stack of blocks, trained at once; then taken one by one, so that the record is the same."""
    schedule = _schedule(state, settings, runtime)
    flow = state.flow
    for number, gamma in enumerate(schedule.gammas, start=1):
        step = Step(number, gamma, state.train, state.validation, flow.base, runtime)
        flow = flow.then(new_block(step, _network(flow.dim, _PHASES[0]), steps=1))
    whole = DescentSettings(updates_per_block(len(state.train)), batch_of(len(state.train)), END_TO_END_RATE)
    if decisions.limited:  # all blocks in one descent: the budget is asked often enough to be kept
        whole = replace(whole, updates=_BUDGET_UPDATES, checkpoints=_BUDGET_CHECKPOINTS)
        whole = replace(whole, patience=whole.patience * _BUDGET_CHECKPOINTS // DescentSettings.checkpoints)
    stop = decisions.stop_at(0)
    trained, done = train_end_to_end(
        flow,
        state.train,
        state.validation,
        settings=whole,
        divergence=settings.divergence,
        generator=runtime.stream("end_to_end"),
        stop=lambda updates: stop("end_to_end", updates),
    )
    for number, block in enumerate(trained, start=1):
        state, info = take_block(state, block, runtime)
        record = {
            **info,
            "block": number,
            "kept": True,
            "round": 0,
            "updates": {"warm_start": 0, "proximal": 0, "end_to_end": done.updates},
            "finished_on": "end_to_end",
            "retries": done.retries,
        }
        assert isinstance(block, NeuralODEBlock)
        state = replace(state, number=number)
        yield state, TakenStep(block, record)

r"""From samples of p_0 and settings to a finished flow: coordinates, step sizes, then the fold.

    pilot -> Gaussian step, where it helps -> started and finished blocks -> the Gaussian alone, if no better

With a budget each step gets the updates that the remaining CPU-seconds allow; without one, those of
`jkoflow.recipe`, and no clock is read. Source: docs/method.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from jkoflow import recipe
from jkoflow.blocks import NeuralODEBlock
from jkoflow.budget import Decisions
from jkoflow.config import Settings
from jkoflow.descent import DescentSettings
from jkoflow.end_to_end import train_end_to_end
from jkoflow.fit import (
    FitState,
    Keep,
    TakenStep,
    improves,
    initial_state,
    is_significant,
    proximal_fold,
    take_block,
)
from jkoflow.gaussian_step import gaussian_step, gaussian_step_on_all_rows
from jkoflow.laws import StandardNormal
from jkoflow.pace import Pace, affordable_blocks, paced_trainer
from jkoflow.particles import Particles
from jkoflow.passes import closed_passes
from jkoflow.pilot import Pilot, timed_pilot
from jkoflow.proximal import BlockTrainer, DispatchedTrainer
from jkoflow.runtime import Runtime
from jkoflow.schedule import Schedule, resolve_schedule
from jkoflow.step import Step, new_block

__all__ = ["train_flow"]

_BUDGET_UPDATES = 20_000
"""Most updates of one descent under a budget."""
_BUDGET_CHECKPOINTS = 400
"""Of a descent of all blocks at once, so that a budget is asked every 50 updates."""
_LAST_CHECKS = 2
"""See `Pace.last_checks`."""
_FLOW_STANDARD_ERRORS = 2.0
"""Of the gain over the Gaussian alone, below which the Gaussian is the model: several blocks were tried on
the same rows, each kept for one."""


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
        trainer = recipe.proximal_trainer(train.dim, len(train), settings.divergence)
        yield from _rounds(
            state,
            _schedule(state, settings, runtime),
            runtime,
            decisions,
            taken,
            lambda step: trainer,
            keep=None,
        )
    else:
        yield from _automatic(state, settings, runtime, decisions, taken)


def _automatic(
    state: FitState, settings: Settings, runtime: Runtime, decisions: Decisions, taken: Sequence[TakenStep]
) -> Iterator[tuple[FitState, TakenStep]]:
    """Pilot, closed-form first step where it helps, then started and finished blocks."""
    choice = Pilot(**decisions.decide("pilot", lambda: timed_pilot(state, settings, runtime, decisions)))
    whitened, first = gaussian_step(state, runtime)
    start = whitened if choice.affine_first else state
    if choice.affine_first:
        yield start, first
        taken = taken[1:]
    if settings.max_blocks <= len(start.flow):
        return
    after, whitened = start, replace(whitened, train=state.train)
    for after, step in _started_blocks(start, choice, settings, runtime, decisions, taken):
        yield after, step
    gain = after.held_out_log_prob - whitened.held_out_log_prob
    if not is_significant(gain, standard_errors=_FLOW_STANDARD_ERRORS):
        again = replace(state, number=after.number, nll=whitened.nll, judged=whitened.flow)
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
    if settings.gamma == "auto":
        yield from closed_passes(state, choice, settings, runtime, decisions, taken)
        return
    room = settings.max_blocks - len(state.flow)
    room = affordable_blocks(room, len(state.train), choice, decisions)
    schedule = _schedule(state, replace(settings, max_blocks=len(state.flow) + room), runtime)
    limit = recipe.updates_per_block(len(state.train))
    n_steps = state.number + len(schedule.gammas)
    pace = Pace(limit, n_steps, decisions, choice.seconds, finishes=True, last_checks=_LAST_CHECKS)
    trainer_of = paced_trainer(choice, pace, settings)
    yield from _rounds(state, schedule, runtime, decisions, taken, trainer_of, keep=improves)


def _rounds(
    state: FitState,
    schedule: Schedule,
    runtime: Runtime,
    decisions: Decisions,
    taken: Sequence[TakenStep],
    trainer_of: Callable[[Step], BlockTrainer],
    *,
    keep: Keep | None,
) -> Iterator[tuple[FitState, TakenStep]]:
    """The fold, once for each round of the schedule; a later round starts again from p_0."""
    after, rounds = state, schedule.rounds
    for round_number in range(rounds):
        after = start = replace(state, number=after.number)
        planned = start.number + (rounds - round_number) * len(schedule.gammas)
        for after, step in proximal_fold(
            start,
            schedule=schedule,
            trainer=DispatchedTrainer(trainer_of),
            runtime=runtime,
            keep=keep,
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


def _end_to_end(
    state: FitState, settings: Settings, runtime: Runtime, decisions: Decisions
) -> Iterator[tuple[FitState, TakenStep]]:
    """The same stack of blocks, trained at once; then taken one by one, so that the record is the same."""
    schedule = _schedule(state, settings, runtime)
    flow = state.flow
    for number, gamma in enumerate(schedule.gammas, start=1):
        step = Step(number, gamma, state.train, state.validation, flow.base, runtime)
        flow = flow.then(new_block(step, recipe.plain_network_of(flow.dim), steps=1))
    whole = recipe.end_to_end_descent(len(state.train))
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

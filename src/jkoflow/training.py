r"""From samples of p_0 and settings to a finished flow: coordinates, step sizes, then the fold.

    pilot -> Gaussian step, where it helps -> started and finished blocks -> the Gaussian alone, if no better

With a budget each step gets the updates that the remaining CPU-seconds allow; without one, those of
`jkoflow.recipe`, and no clock is read. Source: docs/method.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from jkoflow import recipe
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
from jkoflow.pilot import Pilot, timed_pilot
from jkoflow.proximal import BlockTrainer, DispatchedTrainer, IdentityTrainer
from jkoflow.runtime import Runtime
from jkoflow.schedule import Schedule, resolve_schedule
from jkoflow.step import Step, new_block

__all__ = ["train_flow"]

_BUDGET_UPDATES = 20_000
"""Most updates of one descent under a budget."""
_BUDGET_CHECKPOINTS = 400
"""Of a descent of all blocks at once, so that a budget is asked every 50 updates."""
_BUDGET_SHARE = 0.9
"""Of a block's share of the time: the rest is for held-out rows and solver steps."""
_FREE_CHECKS = 4
"""Times what the block before cost beside its updates: held back for the last, free block, whose solver steps
and inverse take longest to settle."""
_LEAST_UPDATES = 400
"""Of a block, below which a budget trains fewer blocks instead."""
_FINISHING_COST = 10
"""Of an update on the proximal objective, in updates of a block's start."""
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
            keep_if_better=False,
        )
    else:
        yield from _automatic(state, settings, runtime, decisions, taken)


def _automatic(
    state: FitState, settings: Settings, runtime: Runtime, decisions: Decisions, taken: Sequence[TakenStep]
) -> Iterator[tuple[FitState, TakenStep]]:
    """Pilot, closed-form first step where it helps, then started and finished blocks."""
    choice = Pilot(**decisions.decide("pilot", lambda: timed_pilot(state, settings, runtime, decisions)))
    if decisions.limited:
        settings = replace(settings, max_blocks=_affordable_blocks(settings, choice, decisions))
    whitened, first = gaussian_step(state, runtime)
    start = whitened if choice.affine_first else state
    schedule = _schedule(start, settings, runtime) if settings.max_blocks > len(start.flow) else None
    if choice.affine_first:
        planned = start.number + (len(schedule.gammas) if schedule else 0)
        yield start, TakenStep(first.block, {**first.info, "planned": planned})
        taken = taken[1:]
    if schedule is None:
        return
    whitened = replace(whitened, train=state.train)  # only its held-out rows are looked at again
    for after, step in _started_blocks(start, choice, schedule, settings, runtime, decisions, taken):
        yield after, step
    gain = after.held_out_log_prob - whitened.held_out_log_prob
    if not is_significant(gain, standard_errors=_FLOW_STANDARD_ERRORS):
        again = replace(state, number=after.number, nll=whitened.nll)
        alone, last = gaussian_step_on_all_rows(again, runtime, first.info["covariance"])
        yield alone, TakenStep(last.block, {**last.info, "planned": alone.number})


def _affordable_blocks(settings: Settings, choice: Pilot, decisions: Decisions) -> int:
    """Most blocks that a budget leaves time to train; few blocks trained well beat many that are not."""

    def count() -> int:
        blocks = int(decisions.remaining() / (_LEAST_UPDATES * choice.seconds))
        return min(settings.max_blocks, max(blocks, 1) + int(choice.affine_first))

    return int(decisions.decide("blocks", count))


def _started_blocks(
    state: FitState,
    choice: Pilot,
    schedule: Schedule,
    settings: Settings,
    runtime: Runtime,
    decisions: Decisions,
    taken: Sequence[TakenStep],
) -> Iterator[tuple[FitState, TakenStep]]:
    """Blocks that start on the OU path of their step, kept where they lower the held-out NLL."""
    limit = recipe.updates_per_block(len(state.train))
    pace = _Pace(limit, state.number + len(schedule.gammas), decisions, choice.seconds)

    def trainer_of(step: Step) -> BlockTrainer:
        phase = recipe.phase_of(choice.features, step.gamma)
        network = recipe.network_of(step.train.dim, phase, len(step.train))
        updates = pace.updates(step)
        if updates == 0:
            return IdentityTrainer(network)
        finished = updates >= limit  # before that, more of the start is worth more
        return recipe.started_trainer(
            network, updates, len(step.train), settings.divergence, finished=finished
        )

    yield from _rounds(state, schedule, runtime, decisions, taken, trainer_of, keep_if_better=True)


def _rounds(
    state: FitState,
    schedule: Schedule,
    runtime: Runtime,
    decisions: Decisions,
    taken: Sequence[TakenStep],
    trainer_of: Callable[[Step], BlockTrainer],
    *,
    keep_if_better: bool,
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
        """Updates that share the remaining CPU-seconds evenly among the steps left; 0 where none are left.

        What a step costs beside its updates (solver steps, held-out rows) is taken from the step before.
        """
        if self.decisions.remaining() <= 0:
            return 0
        used, seconds = self.decisions.used(), self.seconds * (1 + _FINISHING_COST * recipe.FINISH_SHARE)
        beside = 0.0
        if self._before is not None:
            beside = max(0.0, used - self._before[0] - self._before[1] * seconds)
        steps_left = max(1, self.n_steps - step.number + 1)
        left = self.decisions.remaining() - _FREE_CHECKS * beside
        share = _BUDGET_SHARE * left / steps_left - beside
        updates = int(min(max(share / seconds, 20), _BUDGET_UPDATES))
        self._before = (used, updates)
        return updates


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

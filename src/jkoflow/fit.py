r"""The fold itself: one proximal step after the other over the particles.

    p_0 -> p_1 = (T_1)_# p_0 -> ... -> p_N = (T_N)_# p_{N-1},    flow = T_N o ... o T_1

Each step sees only pushed particles; nothing is back-propagated through earlier blocks, and neither
particles nor blocks of earlier steps stay in the working memory of the next. Knows no file: it yields
states and information.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, section 3.1, eq. (19)-(25).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from jkoflow.blocks import Block
from jkoflow.flow import Flow, push_block_with_log_det
from jkoflow.flow.likelihood import standard_error
from jkoflow.laws import Law
from jkoflow.objective import KLObjective
from jkoflow.particles import PUSH_ROWS, Particles
from jkoflow.proximal import BlockTrainer
from jkoflow.runtime import Runtime
from jkoflow.schedule import Schedule
from jkoflow.step import Step, Stop

__all__ = [
    "FitState",
    "StepInfo",
    "TakenStep",
    "closed_form_record",
    "improves",
    "initial_state",
    "is_significant",
    "proximal_fold",
    "take_block",
    "take_closed_form",
]

StepInfo = dict[str, Any]
"""What a step did: one line of `steps.jsonl`; nothing reads it to train."""


@dataclass(frozen=True)
class FitState:
    """What the next step depends on.

    Arguments:
        flow: T_n o ... o T_1.
        train: Samples of p_n.
        validation: Held-out samples of p_n.
        log_det: Accumulated log-determinant of the held-out rows, shape `(n_validation,)`, nats, float64.
        nll: Held-out NLL of the flow, nats, standardised units.
        number: Steps taken, the dropped ones included.
        moved: Step size and mean distance moved, standardised units, of each finite step in the flow.
        finished: Whether the stop rule has ended the fit.
        judged: The flow that the held-out rows may judge, where `flow` itself was fitted on them.
    """

    flow: Flow
    train: Particles
    validation: Particles
    log_det: Tensor
    nll: float
    number: int = 0
    moved: tuple[tuple[float, float], ...] = ()
    finished: bool = False
    judged: Flow | None = None

    @property
    def held_out_log_prob(self) -> Tensor:
        """log q_0 of the held-out rows under the flow so far, shape `(n_validation,)`, nats, float64."""
        return self.log_det + self.flow.base.log_prob(self.validation.x.double())


Keep = Callable[[FitState, FitState], bool]
"""Whether a block is worth its place, by the states before and after it."""


@dataclass(frozen=True)
class TakenStep:
    """A step as it is stored: the block, or None where it was dropped, and what the state needs of it."""

    block: Block | None
    info: StepInfo = field(default_factory=dict)


def initial_state(base: Law, train: Particles, validation: Particles) -> FitState:
    """The state before the first step: the empty flow."""
    log_det = torch.zeros(len(validation), dtype=torch.float64, device=validation.x.device)
    nll = -float(base.log_prob(validation.x.double()).mean())
    return FitState(Flow(base), train, validation, log_det, nll)


def take_block(state: FitState, block: Block, runtime: Runtime) -> tuple[FitState, StepInfo]:
    """The state after `block`, and its held-out loss terms, transport and NLL.

    Training rows are pushed when they are asked for: a block that is only judged costs the held-out rows. The
    step-doubling error is that of the first `PUSH_ROWS` held-out rows, which are in random order.
    """
    before = state.validation
    some = before.rows(slice(0, PUSH_ROWS))
    image, log_det = push_block_with_log_det(block, before)
    accumulated = state.log_det + log_det.to(torch.float64)
    nats = accumulated + state.flow.base.log_prob(image.double())
    gain = nats - state.held_out_log_prob
    terms = KLObjective(state.flow.base, block.gamma).terms_of(before.x, image, log_det)
    distance = (before.x - image).norm(dim=1)
    size = runtime.mean(image.double().square().sum(dim=1))
    nll = -runtime.mean(nats)
    info: StepInfo = {
        "gamma": None if block.free else block.gamma,
        "potential_nats": float(terms.potential),
        "neg_log_det_nats": float(terms.neg_log_det),
        "transport_nats": float(terms.transport),
        "held_out_nll_nats": nll,
        "held_out_nll_se_nats": standard_error(nats),
        "gain_nats": runtime.mean(gain),
        "gain_se_nats": standard_error(gain),
        "transport": float(terms.moved),
        "transport_ratio": float(terms.moved) / size,
        "mean_distance": runtime.mean(distance),
        "step_doubling_error": block.step_doubling_error(some.x, some.context),
    }
    moved = state.moved if block.free else (*state.moved, (block.gamma, info["mean_distance"]))
    after = replace(
        state,
        flow=state.flow.then(block),
        train=state.train.deferred(block.push),
        validation=Particles(image, before.context),
        log_det=accumulated,
        nll=nll,
        moved=moved,
    )
    return after, info


def take_closed_form(state: FitState, block: Block, runtime: Runtime) -> tuple[FitState, StepInfo]:
    """As `take_block`, for a step outside of any schedule: numbered as the next, distances start anew."""
    after, info = take_block(state, block, runtime)
    return replace(after, number=state.number + 1, moved=()), info


def closed_form_record(info: StepInfo, number: int, **more: Any) -> StepInfo:
    """The record of a step that no descent found: what `take_block` told and what is particular to it."""
    return {
        **info,
        "block": number,
        "kept": True,
        "round": -1,
        "updates": {"warm_start": 0, "proximal": 0},
        "finished_on": "closed_form",
        "retries": 0,
        **more,
    }


def proximal_fold(
    state: FitState,
    *,
    schedule: Schedule,
    trainer: BlockTrainer,
    runtime: Runtime,
    keep: Keep | None,
    stop: Callable[[int], Stop] = lambda number: lambda phase, updates: False,
    taken: Sequence[TakenStep] = (),
    round_number: int = 0,
) -> Iterator[tuple[FitState, TakenStep]]:
    """Take the steps of `schedule`, yielding the state and the step after each.

    Arguments:
        state: Where to start; see `initial_state`.
        schedule: Step sizes and stop rule.
        trainer: How a block is trained.
        runtime: Device, dtype, seed.
        keep: Asked of each new block with the states before and after it; a block for which it says no is
            dropped. None to keep all.
        stop: For each step number, what a budget is asked at its checkpoints.
        taken: Steps that an interrupted fit had finished; they are applied, not trained again, but `keep` is
            asked again of those that it kept.
        round_number: Number of the whole fit, when step sizes are re-parametrised.
    """
    first = state.number
    for index, gamma in enumerate(schedule.gammas):
        number = first + index + 1
        if index < len(taken):
            done = taken[index]
        else:  # nothing here keeps the step: its particles go when the next ones are there
            done = TakenStep(
                *trainer(
                    Step(
                        number,
                        gamma,
                        state.train,
                        state.validation,
                        state.flow.base,
                        runtime,
                        stop(number),
                        round_number,
                    )
                )
            )
        state, done = _applied(
            state,
            done,
            number,
            runtime,
            keep=keep,
            stop_ratio=schedule.stop_ratio,
        )
        yield state, done
        if state.finished:
            return


def _applied(
    state: FitState,
    done: TakenStep,
    number: int,
    runtime: Runtime,
    *,
    keep: Keep | None,
    stop_ratio: float | None,
) -> tuple[FitState, TakenStep]:
    """The state after a step; a block that is dropped, now or on record, leaves the flow as it was."""
    if done.block is None:
        return replace(state, number=number), done
    after, info = take_block(state, done.block.requires_grad_(False), runtime)
    kept = keep is None or keep(state, after)
    record = {**done.info, **info, "block": number, "kept": kept}
    if not kept:
        return replace(state, number=number), TakenStep(None, record)
    ended = stop_ratio is not None and info["transport_ratio"] < stop_ratio
    return replace(after, number=number, finished=ended), TakenStep(done.block, record)


def improves(before: FitState, after: FitState) -> bool:
    """Whether the held-out NLL falls by more than its paired standard error."""
    gain = after.held_out_log_prob - before.held_out_log_prob
    return is_significant(gain, standard_errors=1.0)


def is_significant(gain: Tensor, *, standard_errors: float) -> bool:
    """Whether the mean of paired gains, nats, shape `(n,)`, is above so many of its standard errors.

    A single row has no standard error; then any gain is.
    """
    error = standard_error(gain)
    return float(gain.mean()) > (0.0 if math.isnan(error) else standard_errors * error)

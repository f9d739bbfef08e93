r"""Choices by short fits on part of the rows: how fine the features are, the Gaussian step first or not.

    chosen = argmin of the held-out NLL of a fit with few updates a block, over the choices

Where step sizes are automatic a flow is closed in closed form (`passes`), which makes up for a Gaussian step
that is missing at its beginning; so only where they are given is there a choice of it. Under a budget the
search has a share of it, and measures what an update costs. Source: ours.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jkoflow import recipe
from jkoflow.budget import Decisions
from jkoflow.config import Settings
from jkoflow.fit import FitState, improves, proximal_fold
from jkoflow.gaussian_step import gaussian_step
from jkoflow.proximal import DispatchedTrainer, StartTrainer
from jkoflow.runtime import Runtime
from jkoflow.schedule import resolve_schedule
from jkoflow.solver_steps import judged_rows
from jkoflow.step import Step

__all__ = ["Pilot", "choose_by_pilot", "timed_pilot"]

_ROWS, _JUDGED_ROWS, _BLOCKS = 4000, 1000, 5
UPDATES = (40, 120)
_BUDGET_SHARE, _REHEARSALS, _PAIRS = 0.2, (20, 80), 3
_PATIENCE = 1.6
"""Times that share, after which no further fit is waited for: a choice among half of them is a bad one."""
_UPDATES_SHARE = 0.6
"""Of the pilot's time under a budget that goes into updates; the rest pushes and judges."""


@dataclass(frozen=True)
class Pilot:
    """What the pilot fits chose.

    Arguments:
        affine_first: Whether the first step is the closed-form Gaussian one.
        features: How fine the Fourier features are; see `recipe.FEATURES`.
        seconds: CPU-seconds of one update of a block's start, as measured; only a budget looks at it.
    """

    affine_first: bool
    features: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the log."""
        return {"affine_first": self.affine_first, "features": self.features, "seconds": self.seconds}


def timed_pilot(
    state: FitState, settings: Settings, runtime: Runtime, decisions: Decisions
) -> dict[str, Any]:
    """The pilot's choice for the log; under a budget within its share, and with what an update costs."""
    least, most = UPDATES
    if not decisions.limited:
        return choose_by_pilot(state, settings, runtime, updates=most).to_dict()
    seconds = _rehearsed_seconds(state, runtime, decisions)
    share = _BUDGET_SHARE * decisions.remaining()
    end = decisions.used() + _PATIENCE * share
    n_blocks = _BLOCKS * (len(recipe.FEATURES) + (settings.gamma != "auto"))
    updates = int(min(max(_UPDATES_SHARE * share / (n_blocks * seconds), least), most))
    choice = choose_by_pilot(
        state, settings, runtime, updates=updates, out_of_time=lambda: decisions.used() > end
    )
    return replace(choice, seconds=seconds).to_dict()


def _rehearsed_seconds(state: FitState, runtime: Runtime, decisions: Decisions) -> float:
    """CPU-seconds of one update of a block's start, by short starts of a block that is thrown away.

    Two lengths, whose difference is updates alone; the first of all also loads what is needed only once. The
    median of a few such pairs, since the number of blocks depends on it and a machine's other work does not.
    """
    step = Step(0, math.inf, state.train, state.validation, state.flow.base, runtime)
    network = recipe.network_of(state.flow.dim, recipe.PLAIN_PHASE, len(state.train))

    def start(updates: int) -> float:
        before = decisions.used()
        StartTrainer(network, recipe.warm_start_descent(len(state.train), updates, checkpoints=1))(step)
        return decisions.used() - before

    few, many = _REHEARSALS
    start(few)
    pairs = [(start(few), start(many)) for _ in range(_PAIRS)]
    return statistics.median(max(long - short, 0.1 * long) for short, long in pairs) / (many - few)


def choose_by_pilot(
    state: FitState,
    settings: Settings,
    runtime: Runtime,
    *,
    updates: int,
    out_of_time: Callable[[], bool] = lambda: False,
) -> Pilot:
    """Short fits on part of the rows: with and without the Gaussian step, then with other features.

    Each block of a fit has so many `updates` and one solver step, and nothing of a fit is kept. A fit that is
    not finished when the time is up counts for nothing; without any, the Gaussian step (where there is a
    choice of it) and the first of `recipe.FEATURES` are taken.
    """
    part = replace(
        state,
        train=state.train.rows(slice(0, _ROWS)),
        validation=(judged := judged_rows(state.validation).rows(slice(0, _JUDGED_ROWS))),
        log_det=state.log_det[: len(judged)],
    )
    given = settings.gamma != "auto"
    first = next(iter(recipe.FEATURES))
    tried: dict[tuple[bool, str], float] = {}

    def nll(*, affine_first: bool, features: str) -> float:
        if (affine_first, features) not in tried:
            start = gaussian_step(part, runtime)[0] if affine_first else part
            tried[affine_first, features] = _pilot_nll(
                start, settings, runtime, features, updates, len(state.train), out_of_time
            )
        return tried[affine_first, features]

    affine_first = given and (
        nll(affine_first=True, features=first) <= nll(affine_first=False, features=first)
    )
    best = min(recipe.FEATURES, key=lambda features: nll(affine_first=affine_first, features=features))
    return Pilot(affine_first, best, 0.0)


def _pilot_nll(
    state: FitState,
    settings: Settings,
    runtime: Runtime,
    features: str,
    updates: int,
    n_rows: int,
    out_of_time: Callable[[], bool],
) -> float:
    """Held-out NLL of a short fit of so many updates a block; infinite if the time was up before its end.

    The networks are those of a table of `n_rows`, of which the fit sees a part.
    """
    schedule = resolve_schedule(
        "auto",
        max_blocks=min(settings.max_blocks, _BLOCKS),
        particles=state.train,
        generator=runtime.stream("schedule"),
    )
    descent = recipe.warm_start_descent(len(state.train), updates, checkpoints=1)

    def trainer_of(step: Step) -> StartTrainer:
        network = recipe.network_of(state.flow.dim, recipe.phase_of(features, step.gamma), n_rows)
        return StartTrainer(network, descent)

    fold = proximal_fold(
        state,
        schedule=schedule,
        trainer=DispatchedTrainer(trainer_of),
        runtime=runtime,
        keep=improves,
    )
    nll = state.nll
    while not out_of_time():
        after, _ = next(fold, (None, None))
        if after is None:
            return nll
        nll = after.nll
    return math.inf

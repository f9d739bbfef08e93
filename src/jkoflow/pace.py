"""How many updates a started block gets: the documented limit, or what a budget leaves to it.

    share = (remaining - held back) / steps left - what a step costs beside its updates

The clock is read between two blocks, and only under a budget. Source: ours, docs/method.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jkoflow import recipe
from jkoflow.budget import Decisions
from jkoflow.config import Settings
from jkoflow.pilot import Pilot
from jkoflow.proximal import BlockTrainer, IdentityTrainer
from jkoflow.step import Step

__all__ = ["Pace", "affordable_blocks", "paced_trainer"]

_MOST_UPDATES = 20_000
_SHARE = 0.9
"""Of a block's share of the time: the rest is for held-out rows and solver steps."""
_LEAST_SHARE = 0.5
"""Of what is left, and of a block's share, that goes into updates whatever it costs beside them: a flow that
runs out of time before its last blocks is closed, and better than one of untrained blocks."""
_FREE_CHECKS = 2
"""Times what a block costs beside its updates: held back for the last block, whose solver steps
and inverse take longest to settle."""
_LEAST_UPDATES = 2500
"""Of a block, below which a budget trains fewer blocks instead."""
_FINISHING_COST = 10
"""Of an update on the proximal objective, in updates of a block's start."""


@dataclass
class Pace:
    """How many updates each step gets: the documented limit, or what a budget leaves to it.

    Arguments:
        limit: Updates of a step without a budget.
        n_steps: Steps of the whole fit.
        decisions: Log and budget.
        seconds: CPU-seconds of one starting update, as far as known.
        reserve: CPU-seconds of a budget that are held back for what follows the last step.
    """

    limit: int
    n_steps: int
    decisions: Decisions
    seconds: float
    reserve: float = 0.0
    _before: tuple[float, int] | None = None
    _beside: float | None = None

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

        What a step costs beside its updates (solver steps, held-out rows, closings) is the least that a step
        has cost so far: one that took more is made up for by all that follow, not by the next alone.
        """
        if self.decisions.remaining() <= self.reserve:
            return 0
        used, seconds = self.decisions.used(), self.seconds * (1 + _FINISHING_COST * recipe.FINISH_SHARE)
        if self._before is not None:
            beside = used - self._before[0] - self._before[1] * seconds
            self._beside = max(0.0, beside if self._beside is None else min(beside, self._beside))
        beside = self._beside or 0.0
        steps_left = max(1, self.n_steps - step.number + 1)
        remaining = self.decisions.remaining() - self.reserve
        left = max(remaining - _FREE_CHECKS * beside, _LEAST_SHARE * remaining)
        share = _SHARE * left / steps_left
        updates = int(min(max(max(share - beside, _LEAST_SHARE * share) / seconds, 20), _MOST_UPDATES))
        self._before = (used, updates)
        return updates


def paced_trainer(choice: Pilot, pace: Pace, settings: Settings) -> Callable[[Step], BlockTrainer]:
    """What trains each step: a start with the pilot's features, and a finish where updates are not short."""

    def trainer_of(step: Step) -> BlockTrainer:
        phase = recipe.phase_of(choice.features, step.gamma)
        network = recipe.network_of(step.train.dim, phase, len(step.train))
        updates = pace.updates(step)
        if updates == 0:
            return IdentityTrainer(network)
        finished = updates >= pace.limit  # before that, more of the start is worth more
        return recipe.started_trainer(
            network, updates, len(step.train), settings.divergence, finished=finished
        )

    return trainer_of


def affordable_blocks(most: int, choice: Pilot, decisions: Decisions, *, round_number: int = 0) -> int:
    """Blocks that a budget leaves time to train; few blocks trained well beat many that are not."""
    if not decisions.limited:
        return most

    def count() -> int:
        return min(most, max(int(decisions.remaining() / (_LEAST_UPDATES * choice.seconds)), 1))

    return int(decisions.decide("blocks", count, round=round_number))

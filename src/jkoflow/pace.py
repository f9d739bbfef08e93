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

_FEWEST_UPDATES, _MOST_UPDATES = 20, 20_000
_MOST_EPOCHS = 150
"""Of a block that has more updates than the documented limit: beyond, a small table is learned by heart."""
_SHARE = 0.95
"""Of a block's share of the time: the rest is for what cannot be foreseen."""
_UNKNOWN_BESIDE = 0.25
"""Of a block's share of the time: what the first block is taken to cost beside its updates."""
_LEAST_SHARE = 0.5
"""Of what is left, and of a block's share, that goes into updates whatever it costs beside them: a flow that
runs out of time before its last blocks is closed, and better than one of untrained blocks."""
_LEAST_UPDATES = 2000
"""Of a block, below which a budget trains fewer blocks instead; no more than the documented limit."""
_FEWEST_BLOCKS = 3
"""Of a first pass, however short the time: with fewer each step is too long for what it has to resolve."""
_FINISHED_COST = 1 + 10 * recipe.FINISH_SHARE
"""Of an update that is followed by its share of a finish, of which one takes the time of ten of a start."""


@dataclass
class Pace:
    """How many updates each step gets: the documented limit, or what a budget leaves to it.

    Arguments:
        limit: Updates of a step without a budget.
        n_steps: Steps of the whole fit.
        decisions: Log and budget.
        seconds: CPU-seconds of one starting update, as far as known.
        reserve: CPU-seconds of a budget that are held back for what follows the last step.
        finishes: Whether a start of `limit` updates and more is followed by a finish on the objective.
        last_checks: Times what a step costs beside its updates: held back for the last one, where it is a
            free one, whose solver steps and inverse take longest to settle.
        first_share: Times an even share of the time that each of the steps left gets; above 1 where early
            steps are worth more.
    """

    limit: int
    n_steps: int
    decisions: Decisions
    seconds: float
    reserve: float = 0.0
    finishes: bool = False
    last_checks: int = 0
    first_share: float = 1.0
    _before: tuple[float, float] | None = None
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
        remaining = self.decisions.remaining() - self.reserve
        if remaining <= 0:
            return 0
        used, steps_left = self.decisions.used(), max(1, self.n_steps - step.number + 1)
        if self._before is not None:
            started, trained = self._before
            beside = used - started - trained
            if beside >= 0:  # else the step ended before its time
                self._beside = beside if self._beside is None else min(beside, self._beside)
        beside = _UNKNOWN_BESIDE * remaining / steps_left if self._beside is None else self._beside
        left = max(remaining - self.last_checks * beside, _LEAST_SHARE * remaining)
        share = _SHARE * left * min(self.first_share / steps_left, 1.0)
        updates = self._updates_in(max(share - beside, _LEAST_SHARE * share))
        epoch = len(step.train) / recipe.batch_of(len(step.train))
        updates = min(updates, max(self.limit, int(_MOST_EPOCHS * epoch)))
        self._before = (used, self._seconds_of(updates))
        return updates

    def _updates_in(self, seconds: float) -> int:
        """Those that take so long, with the finish that follows from `limit` on."""
        updates = seconds / self.seconds
        if self.finishes and updates > self.limit:
            updates = max(self.limit - 1, updates / _FINISHED_COST)
        return int(min(max(updates, _FEWEST_UPDATES), _MOST_UPDATES))

    def _seconds_of(self, updates: int) -> float:
        """What they take, by what one of them is known to take."""
        finished = self.finishes and updates >= self.limit
        return updates * self.seconds * (_FINISHED_COST if finished else 1.0)


def paced_trainer(choice: Pilot, pace: Pace, settings: Settings) -> Callable[[Step], BlockTrainer]:
    """What trains each step: a start with the pilot's features and, where asked for, a finish."""

    def trainer_of(step: Step) -> BlockTrainer:
        phase = recipe.phase_of(choice.features, step.gamma)
        network = recipe.network_of(step.train.dim, phase, len(step.train))
        updates = pace.updates(step)
        if updates == 0:
            return IdentityTrainer(network)
        # below the limit, more of the start is worth more
        finished = pace.finishes and updates >= pace.limit
        return recipe.started_trainer(
            network, updates, len(step.train), settings.divergence, finished=finished
        )

    return trainer_of


def affordable_blocks(
    most: int, n_rows: int, choice: Pilot, decisions: Decisions, *, round_number: int = 0
) -> int:
    """Blocks that a budget leaves time to train; few blocks trained well beat many that are not.

    Arguments:
        most: What is wanted, and what there is without a budget.
        n_rows: Training rows.
        choice: The pilot's.
        decisions: Log and budget.
        round_number: Number of the pass.
    """
    if not decisions.limited:
        return most
    fewest = 1 if round_number else _FEWEST_BLOCKS
    seconds = choice.seconds * min(_LEAST_UPDATES, recipe.updates_per_block(n_rows))

    def count() -> int:
        return min(most, max(int(decisions.remaining() / seconds), fewest))

    return int(decisions.decide("blocks", count, round=round_number))

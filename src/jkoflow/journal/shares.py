"""How many updates a block gets: the documented limit, or what a budget leaves to it.

    updates' time = share (time left - held back) min(first_share / steps left, 1) - time beside updates

Time left is less what scores at the end will take, which grow with the blocks. A block is begun only where
there is time to train it. The clock is read between two blocks, and only under a budget. Source: ours,
docs/method.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from jkoflow.journal.journal import Journal
from jkoflow.recipe import BudgetRules

__all__ = ["UpdateShares"]


@dataclass
class UpdateShares:
    """How the time left is divided among the blocks of a round, as updates.

    Arguments:
        journal: Decisions and budget.
        rules: Shares of a budget.
        limit: Updates of a block without a budget.
        last_step: Number of the last step, counted over all rounds.
        seconds: CPU-seconds of one update of the path regression, as measured before the first block.
        batches_per_epoch: Batches in one pass over the training rows.
        reserve: Share of the time left at the start of the round that is held back for what follows the last
            step.
        finish_cost: CPU cost of an update with its part of the finish, relative to one without, where blocks
            of at least `limit` updates are finished on the objective; None where they are not.
        last_checks: See `BudgetRules`; 0 where the last step is not free.
        first_share: See `BudgetRules`.
    """

    journal: Journal
    rules: BudgetRules
    limit: int
    last_step: int
    seconds: float
    batches_per_epoch: float
    reserve: float = 0.0
    finish_cost: float | None = None
    last_checks: int = 0
    first_share: float = 1.0
    _before: tuple[float, int] | None = None
    _beside: float | None = None
    _most_beside: float = 0.0

    def __post_init__(self) -> None:
        self._held_back = self.reserve * self.journal.remaining() if self.journal.limited else 0.0

    def updates(self, number: int, round_number: int, *, last: bool = False) -> int:
        """Updates for the step of that number.

        Arguments:
            number: n.
            round_number: Number of its round.
            last: Whether no step follows, whatever was planned.
        """
        if not self.journal.limited:
            return self.limit
        left = 1 if last else max(1, self.last_step - number + 1)
        decided = self.journal.decide(
            "updates", lambda: self._affordable(number, left), kinds=(int,), block=number, round=round_number
        )
        return int(decided)

    def has_time(self, number: int, round_number: int, *, steps: int = 1) -> bool:
        """Whether there is time to train the step of that number, and `steps` - 1 after it, for a while."""
        if not self.journal.limited:
            return True
        where = {"block": number, "round": round_number}

        def enough() -> bool:
            updates = min(self.rules.updates_of_a_block, self.limit)
            each = updates * self._pace + self.journal.after_descent
            begun = self.journal.has_decided("updates", **where)
            return begun or self.journal.remaining() - self._held_back > steps * each

        return bool(self.journal.decide("time for a block", enough, kinds=(bool,), **where))

    def are_finished(self, updates: int) -> bool:
        """Whether a block of so many updates is finished on the objective: from `limit` updates on.

        With fewer the time of a finish is better spent on more updates.
        """
        return self.finish_cost is not None and updates >= self.limit

    def _affordable(self, number: int, steps_left: int) -> int:
        """Updates in this step's part of the remaining CPU-seconds; the fewest where none are left.

        What a step costs beside its updates (solver steps, validation, closings) is the least that a step
        has cost so far: one that took more is made up for by all that follow, not by the next alone. Of
        the last one, which nothing follows, it is taken to be the most.
        """
        rules = self.rules
        scores = self.journal.after_last * steps_left / max(1, number - 1)
        remaining = max(0.0, self.journal.remaining() - self._held_back - scores)
        used = self.journal.used()
        if self._before is not None:
            started, made = self._before
            beside = used - started - self._seconds_of(made)
            if beside >= 0:  # else the step ended before its time
                self._beside = beside if self._beside is None else min(beside, self._beside)
                self._most_beside = max(beside, self._most_beside)
        beside = rules.unknown_beside * remaining / steps_left if self._beside is None else self._beside
        if steps_left == 1:
            beside = max(beside, self._most_beside)
        left = max(remaining - self.last_checks * beside, rules.least_share * remaining)
        share = rules.share * left * min(self.first_share / steps_left, 1.0)
        updates = self._updates_in(max(share - beside, rules.least_share * share))
        updates = min(updates, max(self.limit, int(rules.most_epochs * self.batches_per_epoch)))
        self._before = (used, updates)
        return updates

    def _updates_in(self, seconds: float) -> int:
        """Those that take so long, with the finish that follows from `limit` on."""
        updates = seconds / self._pace
        if self.finish_cost is not None and updates > self.limit:
            updates = max(self.limit - 1, updates / self.finish_cost)
        fewest, most = self.rules.updates
        return int(min(max(updates, fewest), most))

    def _seconds_of(self, updates: int) -> float:
        """What they take, by what one of them is known to take."""
        finished = self.finish_cost if self.finish_cost is not None and updates >= self.limit else 1.0
        return updates * self._pace * finished

    @property
    def _pace(self) -> float:
        """CPU-seconds of an update as the last block showed them, or as measured before the first."""
        return self.journal.seconds_an_update or self.seconds

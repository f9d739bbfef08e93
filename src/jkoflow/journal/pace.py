"""How fast a descent goes, by a clock that is read at its checkpoints alone.

CPU-seconds of an update = (time between checkpoints - that of the checks) / updates between them
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jkoflow.journal.journal import Journal

__all__ = ["Pace"]


class Pace:
    """A descent that may take a share of the time that is left now.

    Arguments:
        journal: It knows the time; without a budget no clock is read, and the descent goes to its end.
        share: The share.
    """

    def __init__(self, journal: Journal, share: float) -> None:
        self._journal = journal
        self._marks = [(0, journal.used())] if journal.limited else []
        self._end = self._marks[0][1] + share * journal.remaining() if self._marks else 0.0

    def is_over(self, updates: int) -> bool:
        """Whether the share is used up; to be asked at each checkpoint with the updates made."""
        if not self._marks:
            return False
        self._marks.append((updates, self._journal.used()))
        return self._marks[-1][1] > self._end

    def seconds_an_update(self, check: float, *, least_share: float) -> float:
        """CPU-seconds of an update without its checks; 0 without a budget.

        The first checkpoints come late, since much is done for the first time: they count where there are
        no others.

        Arguments:
            check: CPU-seconds of the check at a checkpoint.
            least_share: Share of the time between checkpoints that updates are taken to need at least.
        """
        if len(self._marks) < 2:
            return 0.0
        (before, then), (after, now) = self._marks[min(1, len(self._marks) - 2)], self._marks[-1]
        checks = len(self._marks) - 1 - min(1, len(self._marks) - 2)
        spent = now - then
        return max(spent - checks * check, least_share * spent) / (after - before)

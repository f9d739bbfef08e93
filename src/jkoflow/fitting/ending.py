"""Why a fit ended where it did: the one line of its record and summary that says so.

    ended after n of N blocks, s of B CPU-seconds: why

Source: ours; the reasons are those of the methods (docs/method.md).
"""

from __future__ import annotations

from jkoflow.config import Settings
from jkoflow.journal import Journal
from jkoflow.steps import State

__all__ = ["record_ending"]


def record_ending(state: State, settings: Settings, journal: Journal) -> str:
    """The line, put on record as a decision.

    Arguments:
        state: After the last step.
        settings: They have the number of blocks that was asked for.
        journal: It knows what a budget had left.
    """

    def line() -> str:
        asked = f"{len(state.flow)} of {settings.max_blocks} blocks"
        why = state.ended
        if len(state.flow) >= settings.max_blocks and not why:
            why = "max_blocks is reached"
        return f"ended after {asked}{journal.spent()}: {why}"

    return str(journal.decide("end", line, kinds=(str,)))

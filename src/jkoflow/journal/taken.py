"""What a step found, and the step as it is stored.

solve(step) -> Solution,      judged on validation rows -> Taken
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from jkoflow.blocks import Block

__all__ = ["Solution", "Taken"]


@dataclass(frozen=True)
class Solution:
    """What a step found.

    Arguments:
        block: The block; None where there is none, or where a replayed step had dropped it.
        log: What was done, as plain values for the line of the step in `steps.jsonl`.
    """

    block: Block | None
    log: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def found(
        cls,
        block: Block | None,
        phase: str,
        *,
        retries: int = 0,
        updates: Mapping[str, int] = MappingProxyType({}),
        **more: Any,
    ) -> Solution:
        """A block with what every record of a step has: the phase that found it, and what that took.

        Arguments:
            block: The block.
            phase: `"closed_form"`, `"warm_start"`, `"proximal"` or `"end_to_end"`.
            retries: Restarts of its descents from the best weights so far.
            updates: Updates by phase; 0 for the path regression, `"warm_start"`, and the descent on the
                objective, `"proximal"`, where they are not named.
            more: What else the record tells, as plain values.
        """
        by_phase = {"warm_start": 0, "proximal": 0, **updates}
        return cls(block, {"updates": by_phase, "finished_on": phase, "retries": retries, **more})


@dataclass(frozen=True)
class Taken:
    """A step as it is stored.

    Arguments:
        number: n, from 1, over all rounds; dropped steps count.
        round: Number of the round, from 0; -1 for a Gaussian step outside of any.
        block: The block that was kept, or None where it was dropped.
        log: What was done and measured, as plain values; it is written, and nothing reads it.
    """

    number: int
    round: int
    block: Block | None
    log: Mapping[str, Any] = field(default_factory=dict)

"""How the pilot fits go: short fits on part of the rows, by which a fit chooses before it trains a block.

Source: measured on held-out rows of training tables, docs/performance.md.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PilotRules"]


@dataclass(frozen=True)
class PilotRules:
    """The size of pilot fits, and their part of a budget.

    Arguments:
        rows: Most training rows that a pilot fit sees.
        judged_rows: Most validation rows that it is judged by.
        blocks: Most blocks of a pilot fit.
        updates: Updates of each of its blocks: fewest and most. Without a budget it is the most.
        budget_share: Share of the time left, once an update has been timed, for all pilot fits together.
        patience: Multiple of that share at which the pilot fits are cut off; above 1, since a choice among
            half of them is a bad one.
        updates_share: Share of the pilot fits' time that goes into updates; the rest pushes and judges.
        rehearsals: Updates of two path regressions that are thrown away, whose difference in time is updates
            alone.
        objective_rehearsals: The same of two descents on the objective, whose updates take longer.
        rehearsed_pairs: How many such pairs are timed; their median tells what an update costs.
        least_difference: The difference of a pair is taken to be at least this share of the longer one's
            time.
    """

    rows: int = 4000
    judged_rows: int = 1000
    blocks: int = 5
    updates: tuple[int, int] = (40, 120)
    budget_share: float = 0.2
    patience: float = 1.6
    updates_share: float = 0.6
    rehearsals: tuple[int, int] = (20, 80)
    objective_rehearsals: tuple[int, int] = (4, 20)
    rehearsed_pairs: int = 3
    least_difference: float = 0.02

"""How a budget in CPU-seconds is divided among what a fit still has to do.

Source: measured on held-out rows of training tables, docs/performance.md.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BudgetRules"]


@dataclass(frozen=True)
class BudgetRules:
    """Shares of a budget, and the numbers of updates that it may lead to.

    Arguments:
        updates: Fewest and most updates of one descent that a budget may lead to.
        updates_of_a_block: Updates, their checks apart, that there must be time for where a block is begun.
        most_epochs: Passes over the training rows of a block that has more updates than the documented limit;
            beyond these a small table is learned by heart.
        share: Share of a block's part of the time that is planned with; the rest is for what cannot be
            foreseen.
        unknown_beside: Share of a block's part of the time that the first block is taken to need beside its
            updates.
        least_share: Share of what is left, and of a block's part, that goes into updates whatever it costs
            beside them: a flow that runs out of time before its last blocks is closed, and better than one of
            untrained blocks.
        flow_matching_share: Share of what is left that goes into the updates of flow matching's one block.
        enough_updates: Updates of a block below which a budget trains fewer blocks instead; no more than the
            documented limit.
        enough_alone: The same where no closing follows: what the short steps leave, nothing else takes away.
        enough_on_objective: The same of blocks that descend on the objective from the identity.
        fewest_blocks: Blocks of the first round, however short the time: with fewer each step is too long for
            what it has to resolve.
        finish_cost: CPU cost of one update of the finish, relative to one of the path regression.
        last_checks: Factor of what a block costs beside its updates that is held back for a free last block,
            whose solver steps and inverse take longest to settle.
        reserve: Share of the time that is left at the start of a round which is held back for its last step
            in closed form.
        first_share: Factor of an even part of the time that each block of a round gets: what short steps do
            not resolve, no later one does.
        first_share_alone: The same where no closing follows.
        least_for_a_round: Share of the whole budget below which no further round begins.
        rehearsed_rows: Training rows that are pushed to tell what pushing all of them costs.
        mixture_share: Share of the time left that fitting one mixture may take while blocks are judged.
        rehearsed_components: Components of a mixture that is fitted to tell what a component costs,
        rehearsed_products: and rows × components × columns² of it at most, but for two components.
        careful_cost: CPU cost of one row and component in the final search for a mixture, relative to the
            searches while blocks are judged.
        mean_share: Share of the time left that the mixtures of a mean may take.
        mean_cost: CPU cost of one component of such a mixture, relative to the cost of the whole final search
            divided by the components of the mixture that it found: it tried other mixtures, too.
        end_to_end_checkpoints: Checkpoints, at each of which the clock is read, of a descent of all blocks at
            once under a budget.
    """

    updates: tuple[int, int] = (20, 20_000)
    updates_of_a_block: int = 100
    most_epochs: int = 150
    share: float = 0.95
    unknown_beside: float = 0.25
    least_share: float = 0.5
    flow_matching_share: float = 0.33
    enough_updates: int = 2000
    enough_alone: int = 1000
    enough_on_objective: int = 500
    fewest_blocks: int = 3
    finish_cost: float = 10.0
    last_checks: int = 2
    reserve: float = 0.15
    first_share: float = 1.25
    first_share_alone: float = 1.6
    least_for_a_round: float = 0.1
    rehearsed_rows: int = 4096
    mixture_share: float = 0.04
    rehearsed_components: int = 32
    rehearsed_products: int = 10**8
    careful_cost: float = 2.0
    mean_share: float = 0.5
    mean_cost: float = 0.5
    end_to_end_checkpoints: int = 40

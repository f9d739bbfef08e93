r"""When a fit begins with an autoregressive block, and how that block is trained.

Source: measured on held-out rows of training tables, docs/performance.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from jkoflow.blocks.autoregressive import LeafRules
from jkoflow.recipe.descent import DescentSettings

__all__ = ["LeadRules"]


@dataclass(frozen=True)
class LeadRules:
    """The trial of an autoregressive block beside the first closing, and its training where it leads.

    Arguments:
        fewest_columns: Columns from which on it is tried: with fewer a mixture describes any row.
        trial_updates: Updates of the trial at most, and what it has without a budget.
        trial_share: Share of a budget that the trial may take.
        least_of_updates: Share of the time between two checks that updates are taken to need at least.
        columns_per_doubling: A trial is credited with what its second half gained for each doubling of its
            updates up to those of a block that leads: for one of them for each so many columns,
        fewest_doublings: or for this part of one. The more columns, the less do blocks that move all of them
            at once gain instead, which the first closing does not show either.
        checkpoints: How often the trial is judged on validation rows, and looks at its time.
        training_checkpoints: How often the training of a block that leads is judged.
        patience: Checkpoints without improvement before it stops: after a trial it gets worse first, while
            the rate is at its highest.
        share: Share of the time left after the trial for the updates of a block that leads.
        mixture_products: Components × columns³ of a first closing at most, whose conditionals the block can
            get, too: a row that is pulled pays for them.
        leaves: How trees are grown for a block that leads, where their kernels are worth their place.
        leaf_trial: The same for a trial, of fewer trees on fewer rows.
        leaf_columns: Columns whose trees the trial grows, at most.
        leaf_gain_nats: Gain of the kernels on validation rows, of all columns, that a trial must promise:
            each row that is scored, and more so each that is pulled, pays for them.
        leaf_share: Share of the time left after the updates for growing trees.
        share_beside_leaves: As `share`, where trees are grown.
        trees: Trees of a column below which none are grown, and the most under any budget.
        leaf_rows_power: The CPU time of a tree, its kernels included, grows like this power of its rows.
        least_after: Share of a budget below which no further block is tried after one that leads.
        batches: Fewest and most rows of one update,
        rows_per_batch_row: and training rows for each of them in between.
        rate: Adam's rate.
        average_share: Share of the newest weights in their average.
        warm_up: Updates over which the rate grows to its full size.
        gradient_per_root_column: Length that a longer gradient is cut to, over the square root of the number
            of columns.
        updates_per_root_row: Updates without a budget, over the square root of the number of training rows.
        most_updates: Most updates without a budget.
        fewest_updates: Fewest updates of a block that leads, under any budget.
        most_epochs: Passes over the training rows that a budget may lead to.
    """

    fewest_columns: int = 3
    trial_updates: int = 240
    trial_share: float = 0.08
    least_of_updates: float = 0.2
    columns_per_doubling: int = 20
    fewest_doublings: float = 0.5
    checkpoints: int = 24
    training_checkpoints: int = 20
    patience: int = 12
    share: float = 0.8
    mixture_products: float = 1e7
    leaves: LeafRules = field(default_factory=LeafRules)
    leaf_trial: LeafRules = field(
        default_factory=lambda: LeafRules(trees=(4, 4), most_rows=6000, held_rows=(50, 500))
    )
    leaf_columns: int = 6
    leaf_gain_nats: float = 0.05
    leaf_share: float = 0.7
    share_beside_leaves: float = 0.5
    trees: tuple[int, int] = (6, 56)
    leaf_rows_power: float = 0.65
    least_after: float = 0.4
    batches: tuple[int, int] = (64, 256)
    rows_per_batch_row: int = 4
    rate: float = 1e-2
    average_share: float = 0.01
    warm_up: int = 20
    gradient_per_root_column: float = 5.0
    updates_per_root_row: int = 20
    most_updates: int = 4000
    fewest_updates: int = 40
    most_epochs: int = 150

    def trial(self, n_rows: int, columns: int) -> DescentSettings:
        """How the trial descends."""
        return self._descent(self.trial_updates, n_rows, columns, self.checkpoints)

    def training(self, updates: int, n_rows: int, columns: int) -> DescentSettings:
        """How a block that leads descends after its trial."""
        return self._descent(updates, n_rows, columns, self.training_checkpoints)

    def doublings(self, columns: int, ratio: float) -> float:
        """Doublings that a trial is credited with.

        Arguments:
            columns: d.
            ratio: Updates of a block that leads over those of the trial, at least 1.
        """
        likely = max(self.fewest_doublings, columns / self.columns_per_doubling)
        return min(math.log2(max(ratio, 2.0)), likely)

    def seconds_of_a_tree(self, trial: float, n_rows: int, columns: int) -> float:
        """CPU-seconds of one more tree of every column.

        Arguments:
            trial: CPU-seconds of the trees of the trial.
            n_rows: Training rows.
            columns: d.
        """
        rows = min(n_rows, self.leaves.most_rows) / min(n_rows, self.leaf_trial.most_rows)
        tried = sum(self.leaf_trial.trees) * min(columns, self.leaf_columns)
        return trial * columns / tried * float(rows**self.leaf_rows_power)

    def with_trees(self, number: int) -> LeafRules:
        """How so many trees of a column are grown, divided among both groups as ever."""
        first, second = self.leaves.trees
        of_first = round(number * first / (first + second))
        return replace(self.leaves, trees=(of_first, number - of_first))

    def updates(self, n_rows: int) -> int:
        """Updates of a block that leads without a budget."""
        return min(int(self.updates_per_root_row * math.sqrt(n_rows)), self.most_updates)

    def most(self, n_rows: int) -> int:
        """Most updates that a budget may lead to."""
        return max(self.updates(n_rows), int(self.most_epochs * n_rows / self._batch(n_rows)))

    def _batch(self, n_rows: int) -> int:
        fewest, most = self.batches
        return min(max(n_rows // self.rows_per_batch_row, fewest), most)

    def _descent(self, updates: int, n_rows: int, columns: int, checkpoints: int) -> DescentSettings:
        return DescentSettings(
            updates,
            self._batch(n_rows),
            self.rate,
            checkpoints=checkpoints,
            patience=self.patience,
            average_share=self.average_share,
            warm_up=self.warm_up,
            largest_gradient=self.gradient_per_root_column * math.sqrt(columns),
        )

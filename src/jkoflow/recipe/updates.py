r"""How many updates a block gets without a budget, from which batches, and at which rates.

    updates on the path regression   = clip(14 sqrt(rows), 200, 3500),    batch = clip(rows/4, 128, 384)
    updates on an objective alone    = clip(10 sqrt(rows), 200, 2500)

None of them depends on what the rows are. Source: measured on held-out rows of training tables,
docs/performance.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jkoflow.recipe.descent import DescentSettings

__all__ = ["UpdateRules"]


@dataclass(frozen=True)
class UpdateRules:
    """The lengths and rates of descents, by the number of training rows.

    Arguments:
        regression_per_root_row: Updates of a block's path regression divided by the square root of the number
            of training rows.
        most_regression: Most updates of a path regression without a budget.
        objective_per_root_row: The same ratio for updates on an objective from the identity; more updates
            would learn the rows by heart.
        most_objective: Most updates on an objective from the identity without a budget.
        fewest: Fewest updates of either, whatever the number of rows.
        rows_per_batch_row: Training rows for each row of a batch.
        batches: Fewest and most rows of a batch.
        regression_rate: Adam's rate of a path regression.
        finish_rate: Adam's rate where a started block is finished on the proximal objective.
        objective_rate: Adam's rate on the proximal objective from the identity.
        end_to_end_rate: Adam's rate where all blocks descend at once.
        finish_share: Updates of the finish as a share of those of the path regression.
        fewest_finish: Fewest updates of the finish.
        finish_checkpoints: How often the finish is judged on validation rows.
        checkpoints: How often the other descents are judged on validation rows.
        judged_pairs: Most pairs, of a validation row and time with opposite noises, that a path regression is
            judged on.
        judged_repeats: Most such pairs of one validation row.
        objective_solver_steps: Runge-Kutta steps of a block that descends on the objective from the identity.
        updates_per_judging: Under a budget, updates on an objective between two times that it is judged; it
            is judged as often as a finish at least.
        one_step_gamma: Where step sizes follow from the data, a block of at most this step size descends at
            one solver step.
    """

    regression_per_root_row: int = 14
    most_regression: int = 3500
    objective_per_root_row: int = 10
    most_objective: int = 2500
    fewest: int = 200
    rows_per_batch_row: int = 4
    batches: tuple[int, int] = (128, 384)
    regression_rate: float = 1e-2
    finish_rate: float = 1e-3
    objective_rate: float = 5e-3
    end_to_end_rate: float = 2e-3
    finish_share: float = 0.05
    fewest_finish: int = 10
    finish_checkpoints: int = 5
    checkpoints: int = 20
    judged_pairs: int = 4096
    judged_repeats: int = 8
    objective_solver_steps: int = 2
    updates_per_judging: int = 40
    one_step_gamma: float = 0.1

    def regression_updates(self, n_rows: int) -> int:
        """The documented limit in updates of one block's path regression."""
        return self._clipped(self.regression_per_root_row * math.sqrt(n_rows), self.most_regression)

    def objective_updates(self, n_rows: int) -> int:
        """The documented limit in updates where an objective is descended from the identity."""
        return self._clipped(self.objective_per_root_row * math.sqrt(n_rows), self.most_objective)

    def batch(self, n_rows: int) -> int:
        """Rows of one update."""
        fewest, most = self.batches
        return min(max(n_rows // self.rows_per_batch_row, fewest), most)

    def regression(self, n_rows: int, updates: int, *, checkpoints: int | None = None) -> DescentSettings:
        """How a block's path regression descends in so many updates."""
        often = self.checkpoints if checkpoints is None else checkpoints
        return DescentSettings(updates, self.batch(n_rows), self.regression_rate, checkpoints=often)

    def finish(self, n_rows: int, regression_updates: int) -> DescentSettings:
        """How a block that has had so many updates on its path is finished on the objective."""
        updates = max(self.fewest_finish, int(self.finish_share * regression_updates))
        often = self.finish_checkpoints
        return DescentSettings(updates, self.batch(n_rows), self.finish_rate, checkpoints=often)

    def solver_steps_of(self, gamma: float) -> int:
        """Runge-Kutta steps of a block of that step size which descends on the objective."""
        return 1 if gamma <= self.one_step_gamma else self.objective_solver_steps

    def objective(self, n_rows: int) -> DescentSettings:
        """How a block descends on the proximal objective from the identity."""
        return self._on_objective(n_rows, self.objective_rate)

    def end_to_end(self, n_rows: int) -> DescentSettings:
        """How all blocks descend at once."""
        return self._on_objective(n_rows, self.end_to_end_rate)

    def _on_objective(self, n_rows: int, rate: float) -> DescentSettings:
        updates = self.objective_updates(n_rows)
        return DescentSettings(updates, self.batch(n_rows), rate, checkpoints=self.checkpoints)

    def _clipped(self, updates: float, most: int) -> int:
        return int(min(max(updates, self.fewest), most))

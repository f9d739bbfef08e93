"""How the trees of leaf kernels are grown, and how their kernels are chosen.

Source: measured on held-out rows of training tables, docs/performance.md.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LeafRules"]


@dataclass(frozen=True)
class LeafRules:
    """How trees are grown and kernels chosen.

    Arguments:
        leaves: Fewest rows of a leaf, in each of two groups of trees.
        trees: Trees of each group.
        most_rows: Training rows, the first ones, that trees are grown on.
        held_share: Share of the training rows that kernels are weighed by,
        held_rows: and their fewest and most.
        members: Values of a leaf at most, in each group,
        many_columns: and with more columns than this
        members_of_many: so many: a row that is pulled pays for them in each column.
        first_members: The same of a tree of the first column, which has nothing to split by: the values of
            all its trees together are evenly spaced among those of the rows.
        split_columns: Columns that a column's trees look at, at most: those that correlate with it most.
        widths: Least and greatest width of the candidates, in standard deviations of what the trees predict,
        n_widths: and their number.
        multiples: Widths of candidates in standard deviations of the leaf.
        least_width: Least width of a kernel, in standard deviations of the column, and what is added to the
            multiples: float32 rows cannot be pulled back through narrower ones.
        kernels: Kernels of a column that are kept.
        iterations: Iterations of EM.
        prior_rows: Rows that speak for the network alone, and for the kernels alone, beside the validation
            rows.
        least_share: Share of its kernels below which a column has none.
    """

    leaves: tuple[int, int] = (2, 10)
    trees: tuple[int, int] = (16, 12)
    most_rows: int = 40_000
    held_share: float = 0.1
    held_rows: tuple[int, int] = (50, 1000)
    members: tuple[int, int] = (4, 10)
    many_columns: int = 16
    members_of_many: tuple[int, int] = (2, 6)
    first_members: int = 16
    split_columns: int = 16
    widths: tuple[float, float] = (1e-3, 1.0)
    n_widths: int = 8
    multiples: tuple[float, ...] = (0.05, 0.15, 0.4, 1.0)
    least_width: float = 1e-4
    kernels: int = 4
    iterations: int = 150
    prior_rows: float = 2.0
    least_share: float = 0.02

    def members_of(self, columns: int) -> tuple[int, int]:
        """Values of a leaf at most, in each group, of a table of so many columns."""
        return self.members if columns <= self.many_columns else self.members_of_many

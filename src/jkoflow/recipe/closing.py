r"""How carefully a closing is looked for: the mixture in closed form that ends a round of blocks.

    products of an iteration of EM = rows × K × (f + 15),    f = 1 + p + p (p + 1)/2 statistics of p columns

15 stands for the exponentials. What follows from these limits depends on numbers of rows, columns and seconds
alone. Source: chosen on held-out rows of training tables (docs/performance.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from jkoflow.laws.background import Background

__all__ = ["ClosingRules", "Search", "n_statistics"]


@dataclass(frozen=True)
class Search:
    """How carefully one closing is looked for.

    Arguments:
        rows: Most training rows that EM sees; the first, which are in random order.
        tolerance: Gain of an iteration of EM, nats a row, below which it ends.
        most_components: Largest number of components that is tried.
        most_members: Largest number of mixtures whose mean is tried.
    """

    rows: int
    tolerance: float
    most_components: int
    most_members: int = 1


@dataclass(frozen=True)
class ClosingRules:
    """Limits of the two searches: the quick one that blocks are judged by, the careful one that ends a round.

    Arguments:
        quick_rows: Fewest training rows of a quick search without a budget: the first number where the fewest
            components then stay within `quick_products`, else the second.
        quick_components: Least and greatest value of `Search.most_components` in a quick search; a budget
            above `seconds` raises the greatest in proportion.
        quick_products: Products of an iteration of EM in a quick search where more than the fewest rows are
            seen.
        quick_tolerance: Gain of an iteration of EM, nats a row, at which a quick search ends one.
        rows_per_second: Rows that a quick search sees for each second of a budget.
        statistics_per_second: The same in rows × f, where that is more rows.
        least_rows: Rows that a quick search sees under any budget.
        careful_rows: Training rows of a careful search.
        careful_components: Components that a careful search tries in any case, and the most.
        careful_products: Products of an iteration of EM in a careful search.
        careful_tolerance: Gain of an iteration of EM, nats a row, at which a careful search ends one.
        seconds: CPU-seconds of the budget at which products are limited as without one; a larger budget
            raises the limits in proportion, a smaller one leaves them.
        numbers_per_row: Most parameters of a mixture for each row that EM sees; more would fit chance.
        rows_per_component: Rows that EM sees for each component: the fewest where there are so many, and the
            most that a careful search asks for.
        exponentials: CPU cost of the exponential of one row and component, in products.
        fewest_rows_per_component: Training rows for each component, below which a number of components is not
            tried.
        most_products: Products rows × components × columns² of an iteration of EM, about a second.
        first_components: Components that the first search begins with.
        most_members: Mixtures whose mean is tried at most.
        most_together: Components of such a mean at most: every sample and score pays for them.
        least_gain_nats: Gain on validation rows below which a mean of more mixtures is not taken.
        background: The components for rows unlike any of those seen.
        heavy_widths: Number of those components where the tails of the table are heavy: at 20 the widest is
            of 10^12 standard deviations.
    """

    quick_rows: tuple[int, int] = (20_000, 8000)
    quick_components: tuple[int, int] = (64, 256)
    quick_products: float = 2.1e8
    quick_tolerance: float = 2e-3
    rows_per_second: int = 80
    statistics_per_second: int = 5280
    least_rows: int = 2000
    careful_rows: int = 40_000
    careful_components: tuple[int, int] = (256, 2048)
    careful_products: float = 8.5e8
    careful_tolerance: float = 1e-3
    seconds: float = 30.0
    numbers_per_row: float = 0.55
    rows_per_component: tuple[int, int] = (100, 400)
    exponentials: int = 15
    fewest_rows_per_component: int = 20
    most_products: float = 1e10
    first_components: int = 8
    most_members: int = 8
    most_together: int = 512
    least_gain_nats: float = 0.002
    background: Background = field(default_factory=Background)
    heavy_widths: int = 21

    def with_heavy_tails(self, seen: float) -> ClosingRules:
        """The rules for a table of heavy tails, of whose rows a share of `seen` are gross outliers."""
        wide = replace(self.background, widths=self.heavy_widths, seen=seen)
        return replace(self, background=wide)

    def quick(self, columns: int, n_rows: int, budget: float | None = None) -> Search:
        """The search for the closings that blocks are judged by.

        Arguments:
            columns: p, those of the context included.
            n_rows: Training rows.
            budget: CPU-seconds of the whole fit, or None; a small one allows fewer rows, a large one more.
        """
        (many, few), (fewest, most) = self.quick_rows, self.quick_components
        rows = many if many * fewest * self._cost(columns) <= self.quick_products else few
        if budget is not None:
            a_second = max(self.rows_per_second, self.statistics_per_second / n_statistics(columns))
            rows = min(rows, max(self.least_rows, int(a_second * budget)))
        times = self._times(budget)
        components, rows = self._doubled(
            (fewest, int(times * most)), (rows, n_rows), columns, times * self.quick_products
        )
        return Search(rows, self.quick_tolerance, components)

    def careful(self, columns: int, n_rows: int, budget: float | None = None) -> Search:
        """The search for the closing that ends a round.

        Arguments:
            columns: p, those of the context included.
            n_rows: Training rows.
            budget: CPU-seconds of the whole fit, or None; it allows more rows and components.
        """
        products = self._times(budget) * self.careful_products
        components, _ = self._doubled(self.careful_components, (self.careful_rows, n_rows), columns, products)
        useful = max(self.careful_rows, components * self.rows_per_component[1])
        rows = min(useful, max(self.careful_rows, int(products / (components * self._cost(columns)))))
        return Search(rows, self.careful_tolerance, components, self.most_members)

    def most_components(self, n_rows: int, columns: int) -> int:
        """The most components that `fewest_rows_per_component` and `most_products` allow for so many rows."""
        affordable = int(self.most_products / (n_rows * columns**2))
        return min(n_rows // self.fewest_rows_per_component, affordable)

    def _times(self, budget: float | None) -> float:
        """How many times the arithmetic without a budget one allows."""
        return max(1.0, (budget or 0.0) / self.seconds)

    def _doubled(
        self, limits: tuple[int, int], rows: tuple[int, int], columns: int, products: float
    ) -> tuple[int, int]:
        """Components, doubled while rows can tell so many apart and products allow it, and rows for them.

        Arguments:
            limits: Fewest and most components.
            rows: Fewest, of which more components ask for more, and how many there are.
            columns: p.
            products: Most of an iteration.
        """
        (fewest, most), seen = limits, rows[0]
        while 2 * fewest <= most:
            more = min(max(seen, 2 * fewest * self.rows_per_component[0]), max(rows))
            looked_at = min(more, rows[1])
            told_apart = 2 * fewest * n_statistics(columns) <= self.numbers_per_row * looked_at
            if not told_apart or 2 * fewest * looked_at * self._cost(columns) > products:
                break
            fewest, seen = 2 * fewest, more
        return fewest, seen

    def _cost(self, columns: int) -> int:
        """Products for each row and component in an iteration."""
        return n_statistics(columns) + self.exponentials


def n_statistics(columns: int) -> int:
    """Sufficient statistics of a Gaussian component: 1, x_i and x_i x_j for i <= j."""
    return 1 + columns + columns * (columns + 1) // 2

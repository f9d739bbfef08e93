r"""How carefully closings are looked for: as many rows and components as the arithmetic of EM allows.

    products of an iteration = rows × K × (f + 15),    f = 1 + p + p (p + 1)/2 statistics of p columns

15 stands for the exponentials. The limits were chosen on held-out rows of training tables
(docs/performance.md); what follows from them depends on numbers of rows, columns and seconds alone.
Source: ours.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Search", "careful_search", "scouting_search"]

_EXPONENTIALS = 15
_SCOUTED_ROWS, _FEWEST_SCOUTED_ROWS, _MOST_SCOUTED = 20_000, 8000, 256
_SCOUTING_PRODUCTS = 2.1e8
"""Of an iteration where more than the fewest rows are looked at."""
_NUMBERS_PER_ROW = 0.55
"""Most that a mixture may have; more of them tell of chance."""
_SMALLEST_MOST = 64
"""Components that are tried in any case."""
_SCOUTED_ROWS_PER_SECOND, _SCOUTED_STATISTICS_PER_SECOND = 80, 5280
"""Rows, or rows × f if that is more rows, for each second of a budget."""
_LEAST_SCOUTED_ROWS = 2000
_CAREFUL_ROWS, _CAREFUL_COMPONENTS, _MOST_CAREFUL = 40_000, 256, 2048
_CAREFUL_PRODUCTS = 8.5e8
"""Of an iteration."""
_SECONDS = 30.0
"""Of a budget: for each so many the limits above once more."""
_ROWS_PER_COMPONENT, _MOST_ROWS_PER_COMPONENT = 100, 400
_MOST_MEMBERS = 8


@dataclass(frozen=True)
class Search:
    """How carefully a closing is looked for.

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


def scouting_search(columns: int, n_rows: int, budget: float | None = None) -> Search:
    """For the closings that blocks are judged by.

    Arguments:
        columns: p, those of the context included.
        n_rows: Training rows.
        budget: CPU-seconds of the whole fit, or None; a small one allows fewer rows, a large one more.
    """
    smallest = _SCOUTED_ROWS * _SMALLEST_MOST * _cost(columns)
    rows = _SCOUTED_ROWS if smallest <= _SCOUTING_PRODUCTS else _FEWEST_SCOUTED_ROWS
    if budget is not None:
        a_second = max(_SCOUTED_ROWS_PER_SECOND, _SCOUTED_STATISTICS_PER_SECOND / _statistics(columns))
        rows = min(rows, max(_LEAST_SCOUTED_ROWS, int(a_second * budget)))
    times = _times(budget)
    most, rows = _doubled_components(
        (_SMALLEST_MOST, int(times * _MOST_SCOUTED)), (rows, n_rows), columns, times * _SCOUTING_PRODUCTS
    )
    return Search(rows, tolerance=2e-3, most_components=most)


def careful_search(columns: int, n_rows: int, budget: float | None = None) -> Search:
    """For the closing that a pass ends with.

    Arguments:
        columns: p, those of the context included.
        n_rows: Training rows.
        budget: CPU-seconds of the whole fit, or None; it allows more rows and components.
    """
    products = _times(budget) * _CAREFUL_PRODUCTS
    most, _ = _doubled_components(
        (_CAREFUL_COMPONENTS, _MOST_CAREFUL), (_CAREFUL_ROWS, n_rows), columns, products
    )
    useful = max(_CAREFUL_ROWS, most * _MOST_ROWS_PER_COMPONENT)
    rows = min(useful, max(_CAREFUL_ROWS, int(products / (most * _cost(columns)))))
    return Search(rows, tolerance=1e-3, most_components=most, most_members=_MOST_MEMBERS)


def _times(budget: float | None) -> float:
    """How many times the arithmetic without a budget one allows."""
    return max(1.0, (budget or 0.0) / _SECONDS)


def _doubled_components(
    limits: tuple[int, int], rows: tuple[int, int], columns: int, products: float
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
        more = min(max(seen, 2 * fewest * _ROWS_PER_COMPONENT), max(rows))
        told_apart = 2 * fewest * _statistics(columns) <= _NUMBERS_PER_ROW * min(more, rows[1])
        if not told_apart or 2 * fewest * min(more, rows[1]) * _cost(columns) > products:
            break
        fewest, seen = 2 * fewest, more
    return fewest, seen


def _cost(columns: int) -> int:
    """Products for each row and component in an iteration."""
    return _statistics(columns) + _EXPONENTIALS


def _statistics(columns: int) -> int:
    return 1 + columns + columns * (columns + 1) // 2

"""How carefully closings are looked for: more where an iteration costs less, and where a budget allows it."""

from __future__ import annotations

import pytest

from jkoflow.recipe import ClosingRules

N_ROWS, RULES = 50_000, ClosingRules()


def products(rows: int, components: int, columns: int) -> float:
    """Of an iteration, without exponentials: rows × components × statistics."""
    return rows * components * (1 + columns + columns * (columns + 1) / 2)


@pytest.mark.parametrize("budget", [None, 3.0, 30.0, 300.0])
def test_more_columns_are_never_searched_with_more(budget: float | None) -> None:
    scouts = [RULES.quick(p, N_ROWS, budget) for p in range(1, 200)]
    careful = [RULES.careful(p, 10**6, budget) for p in range(1, 200)]
    for searches in (scouts, careful):
        most = [search.most_components for search in searches]
        assert most == sorted(most, reverse=True)
    assert {search.rows for search in scouts} >= {8000} or budget is not None


def test_a_search_stays_within_its_arithmetic() -> None:
    for p in (1, 2, 4, 8, 12):
        search = RULES.quick(p, N_ROWS)
        assert products(search.rows, search.most_components, p) <= 2.1e8
        for n_rows in (5000, 50_000, 10**7):
            search = RULES.careful(p, n_rows)
            rows = min(n_rows, search.rows)
            assert products(rows, search.most_components, p) <= 8.5e8 or search.most_components == 256
            assert rows * 1.0 >= min(n_rows, 40_000)


def test_what_is_scouted_has_rows_for_its_numbers() -> None:
    for p in range(1, 60):
        numbers = 1 + p + p * (p + 1) / 2
        for budget in (None, 30.0, 100.0, 3000.0):
            scout, careful = RULES.quick(p, N_ROWS, budget), RULES.careful(p, 50_000, budget)
            assert scout.most_components == 64 or scout.most_components * numbers <= 0.55 * scout.rows
            rows = min(50_000, careful.rows)
            assert careful.most_components == 256 or careful.most_components * numbers <= 0.55 * rows


def test_a_budget_scouts_less_and_searches_more_carefully() -> None:
    rows = [RULES.quick(10, N_ROWS, budget).rows for budget in (1.0, 30.0, 100.0, 1000.0)]
    assert rows == sorted(rows)
    assert rows[0] == 2000 < rows[1] < rows[2] < RULES.quick(10, N_ROWS).rows <= rows[3]
    careful = [RULES.careful(2, 10**6, budget) for budget in (1.0, 30.0, 300.0, 3000.0)]
    assert careful[0] == careful[1] == RULES.careful(2, 10**6)
    assert careful[1].most_components < careful[2].most_components <= careful[3].most_components == 2048
    assert careful[1].rows < careful[2].rows < careful[3].rows


def test_careful_components_have_rows_of_their_own() -> None:
    for budget in (None, 300.0, 1e4):
        for n_rows in (10**5, 10**7):
            search = RULES.careful(2, n_rows, budget)
            assert min(n_rows, search.rows) >= min(n_rows, 100 * search.most_components)

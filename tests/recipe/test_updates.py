"""The documented defaults of training."""

from __future__ import annotations

from jkoflow.recipe import UpdateRules

RULES = UpdateRules()


def test_documented_limit_in_updates() -> None:
    rows = (10, 400, 10_000, 62_500, 10**6)
    assert [RULES.regression_updates(n) for n in rows] == [200, 280, 1400, 3500, 3500]
    assert [RULES.objective_updates(n) for n in rows] == [200, 200, 1000, 2500, 2500]


def test_batch_is_a_quarter_of_a_small_table() -> None:
    assert [RULES.batch(n) for n in (10, 512, 1000, 2048, 10**6)] == [128, 128, 250, 384, 384]


def test_finish_has_a_twentieth_of_the_updates_and_at_least_ten() -> None:
    for updates, finish in ((1000, 50), (40, 10)):
        start, end = RULES.regression(5000, updates), RULES.finish(5000, updates)
        assert (start.updates, end.updates) == (updates, finish)
        assert (start.batch, end.batch) == (384, 384)
        assert (start.learning_rate, end.learning_rate) == (1e-2, 1e-3)


def test_descents_on_an_objective_have_their_own_rates() -> None:
    assert (RULES.objective(5000).learning_rate, RULES.end_to_end(5000).learning_rate) == (5e-3, 2e-3)
    assert RULES.objective(5000).updates == RULES.objective_updates(5000)

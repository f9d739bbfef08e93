"""One wild row, wherever it lies, costs its own likelihood and never that of the others."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from fitting.quick_fits import fit_table, settings
from jkoflow import JKOFlow
from jkoflow.data import read_table
from jkoflow.fitting import split_rows

Rows = np.ndarray

TRUE_NLL = 1 + math.log(2 * math.pi)
"""Of the standard normal law in the plane, nats."""


def with_outlier(rows: Rows, place: int, size: float) -> Rows:
    return np.insert(rows, place, [size, 0.0], axis=0)


def normal(n: int, seed: int) -> Rows:
    return np.random.default_rng(seed).normal(size=(n, 2))


# ── the split ──


@pytest.mark.parametrize("size", [1e3, 1e6, -1e12])
@pytest.mark.parametrize("place", [0, 17, 300])
def test_all_other_rows_have_the_parts_that_they_would_have_without_it(size: float, place: int) -> None:
    rows = normal(300, 0)
    plain = split_rows(read_table(rows), settings())
    split = split_rows(read_table(with_outlier(rows, place, size)), settings())
    for name in ("train", "validation", "holdout"):
        found = getattr(split, name)
        found = found[found != place]
        assert_array_equal(found - (found > place), getattr(plain, name))
    assert place not in {*split.train, *split.validation}
    assert sum(split.sizes().values()) == 301


def test_it_is_judged_on_by_the_chance_of_any_row() -> None:
    rows, parts = with_outlier(normal(100, 0), 3, 1e6), list[str]()
    for seed in range(400):
        split = split_rows(read_table(rows), settings(seed=seed, validation_fraction=0.2))
        parts += [name for name in ("holdout", "outliers", "aside") if 3 in getattr(split, name)]
    assert len(parts) == 400
    for name, share in (("holdout", 0.1), ("outliers", 0.2), ("aside", 0.7)):
        assert abs(parts.count(name) / 400 - share) < 4 * math.sqrt(share * (1 - share) / 400)


# ── the fit ──


def test_the_fit_is_that_without_it_bit_for_bit() -> None:
    rows = normal(300, 1)
    chosen = settings(objective="jko", max_blocks=2)
    plain = fit_table(read_table(rows), settings=chosen)
    other = fit_table(read_table(with_outlier(rows, 5, 1e6)), settings=chosen)
    assert other.model.schema.columns == plain.model.schema.columns
    ours, theirs = (fitted.model.flow.state_dict() for fitted in (plain, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert any("1 of 301 rows lies" in note for note in other.results["notes"])


def test_it_is_in_what_the_fit_claims_where_it_was_drawn_among_the_judged_rows() -> None:
    rows = with_outlier(normal(200, 0), 3, 1e6)
    for fraction in (0.0, 0.1):
        sizes, nlls = set(), []
        for seed in range(30):
            chosen = settings(seed=seed, holdout_fraction=fraction, max_blocks=1)
            split = split_rows(read_table(rows), chosen)
            told = split.holdout if fraction else np.concatenate([split.validation, split.outliers])
            if len(sizes) < 2 and len(told) not in sizes:
                sizes.add(len(told))
                results = fit_table(read_table(rows), settings=chosen).results
                assert results["held_out_rows"] == len(told)
                nlls.append((len(told), results["held_out_nll_nats"]))
        (_, small), (_, large) = sorted(nlls)
        assert small < 4 < large


def one_wild_row(seed: int, size: float, rows: int, budget: float | None) -> None:
    clean, place = normal(rows, seed), 37 * seed % rows
    options = {"random_state": seed, "holdout_fraction": 0.1, "budget": budget}
    plain = JKOFlow(**options).fit(clean)
    other = JKOFlow(**options).fit(with_outlier(clean, place, size))
    scores = other.score_samples(with_outlier(clean, place, size))
    assert scores.argmin() == place
    assert np.isfinite(scores[place])
    bulk = np.delete(scores, place)
    assert -bulk.mean() < -plain.score(clean) + 0.1
    fresh = normal(4000, 1000 + seed)
    assert -other.score(fresh) < TRUE_NLL + 0.1


@pytest.mark.parametrize(("seed", "size"), [(2, 1e3), (3, 1e6)])
def test_one_wild_row_costs_no_other_row(seed: int, size: float) -> None:
    one_wild_row(seed, size, 400, 3.0)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1e3, 1e6])
@pytest.mark.parametrize("seed", range(10))
def test_one_wild_row_costs_no_other_row_in_ten_seeds(seed: int, size: float) -> None:
    one_wild_row(seed, size, 1000, None)


@pytest.mark.parametrize("options", [{"gamma": 0.5}, {"objective": "jko", "gamma": 0.5}, {"closing": None}])
def test_nor_with_other_methods(options: dict[str, object]) -> None:
    clean = normal(300, 4)
    model = JKOFlow(random_state=0, max_blocks=1, **options).fit(with_outlier(clean, 9, 1e6))  # type: ignore[arg-type]
    scores = model.score_samples(with_outlier(clean, 9, 1e6))
    assert scores.argmin() == 9
    assert -np.delete(scores, 9).mean() < TRUE_NLL + 0.1


def test_a_row_beyond_the_range_of_the_dtype_has_no_density() -> None:
    rows = with_outlier(normal(300, 0), 4, 1e100)
    model = JKOFlow(random_state=1, budget=2.0).fit(rows)
    scores = model.score_samples(rows)
    assert scores[4] == -math.inf
    assert np.isfinite(np.delete(scores, 4)).all()


def test_a_column_of_which_one_value_is_wild_is_no_grid() -> None:
    rows = with_outlier(normal(399, 0), 100, 1e8)
    model = JKOFlow(random_state=0, budget=2.0).fit(rows)
    assert model.model_.schema.dequantised == ()
    assert -model.score(normal(2000, 5)) < TRUE_NLL + 0.1


# ── tails ──


def cauchy_nll(seed: int, rows: int, budget: float | None) -> None:
    """What a fit to Cauchy rows claims is what fresh rows give, within four of the errors that it states."""
    model = JKOFlow(random_state=seed, budget=budget).fit(
        np.random.default_rng(seed).standard_cauchy((rows, 2))
    )
    fresh = -model.score_samples(np.random.default_rng(1000 + seed).standard_cauchy((50_000, 2)))
    claim, error = (model.results_[f"held_out_nll{part}_nats"] for part in ("", "_se"))
    assert fresh.mean() < claim + 4 * error
    assert fresh.mean() < 2 * math.log(4 * math.pi) + 0.5


def test_fresh_cauchy_rows_give_what_is_claimed() -> None:
    cauchy_nll(1, 1500, 12.0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_fresh_cauchy_rows_give_what_is_claimed_in_ten_seeds(seed: int) -> None:
    cauchy_nll(seed, 1500, None)

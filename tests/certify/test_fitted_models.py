"""The bracket on models of the defaults, as a user gets them, against truths that are known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from jkoflow import JKOFlow
from jkoflow.certify import Certificates
from jkoflow.laws import rose

pytestmark = pytest.mark.slow


def true_kl(model: JKOFlow, rows: np.ndarray, log_density: np.ndarray) -> float:
    return float((log_density - model.score_samples(rows)).mean())


def holds(found: Certificates, truth: float) -> bool:
    lower, upper = found.kl.lower, found.kl.upper
    return lower is not None and upper is not None and lower <= truth <= upper < math.inf


def test_rose_closed_by_hundreds_of_components() -> None:
    """No critic learns what is left of 0.06 nats from 10,000 rows; neighbours see it."""
    law = rose()
    sizes = enumerate((50_000, 10_000, 50_000))
    draw = [law.sample(n, torch.Generator().manual_seed(seed)).double() for seed, n in sizes]
    model = JKOFlow(random_state=0).fit(draw[0].numpy())
    truth = true_kl(model, draw[2].numpy(), law.log_prob(draw[2]).numpy())
    found = model.certify(draw[1].numpy())
    assert holds(found, truth)
    assert found.kl.estimate == pytest.approx(truth, rel=0.5)
    assert found.kl.upper < 4 * truth


@pytest.mark.parametrize("closing", ["auto", None])
def test_rows_in_other_units_than_those_of_the_fit(closing: str | None) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, 2)) * 3
    x = centres[rng.integers(5, size=9000)] + 0.3 * rng.normal(size=(9000, 2))
    model = JKOFlow(random_state=0, budget=10, closing=closing).fit(x[:3000])
    squares = ((x[6000:, None] - centres[None]) ** 2).sum(axis=2) / (2 * 0.09)
    log_density = np.log(np.exp(-squares).mean(axis=1) / (2 * math.pi * 0.09)) - 2 * math.log(1000)
    truth = true_kl(model, 1000 * x[6000:], log_density)
    found = model.certify(1000 * x[3000:6000])
    assert truth > 1e5
    assert holds(found, truth)
    assert found.kl.lower > truth / 2


def test_narrow_law_against_a_broad_model() -> None:
    rng = np.random.default_rng(0)
    model = JKOFlow(random_state=0, budget=10).fit(3 * rng.normal(size=(3000, 2)))
    fresh = [np.array([3.0, 1.0]) + 0.01 * rng.normal(size=(3000, 2)) for _ in range(2)]
    squares = ((fresh[1] - [3.0, 1.0]) ** 2).sum(axis=1) / (2 * 1e-4)
    truth = true_kl(model, fresh[1], -squares - math.log(2 * math.pi * 1e-4))
    found = model.certify(fresh[0])
    assert holds(found, truth)
    assert found.kl.estimate == pytest.approx(truth, abs=0.1)


@pytest.mark.parametrize("law", ["cauchy", "pareto", "student"])
def test_tails_that_no_mixture_of_gaussians_holds(law: str) -> None:
    rng = np.random.default_rng(0)
    draws = {
        "cauchy": lambda n: rng.standard_cauchy((n, 2)),
        "pareto": lambda n: rng.pareto(1.2, (n, 3)),
        "student": lambda n: rng.standard_t(1.5, (n, 5)),
    }
    found = JKOFlow(random_state=0, budget=10).fit(draws[law](3000)).certify(draws[law](4000))
    assert found.kl.upper == math.inf
    assert "tail is heavier" in found.kl.assumption
    assert any("tail" in claim.claim and claim.verdict == "fails" for claim in found.claims)


@pytest.mark.cross_validation
def test_150_rows_get_a_bracket() -> None:
    from sklearn.datasets import load_iris

    found = JKOFlow(random_state=0).fit(load_iris().data).certify()
    assert found.kl.lower is not None
    assert found.kl.upper is not None
    assert math.isfinite(found.kl.upper)
    assert any("mean of 5 models" in note for note in found.notes)


def test_rows_of_the_fit_prove_nothing() -> None:
    x = np.random.default_rng(0).normal(size=(600, 3))
    model = JKOFlow(random_state=0, budget=5).fit(x)
    for rows in (x[:200], x[:200] + 1e-9):
        found = model.certify(rows)
        assert (found.kl.lower, found.kl.upper) == (None, None)
        assert any("rows that the fit has seen" in claim.assumption for claim in found.claims)
    assert model.certify(np.random.default_rng(1).normal(size=(400, 3))).kl.upper is not None


def test_near_copies_claim_no_more_than_fresh_rows_give() -> None:
    base = np.random.default_rng(11).normal(size=(80, 2))
    rows = np.repeat(base, 8, axis=0) + 1e-6 * np.random.default_rng(12).normal(size=(640, 2))
    model = JKOFlow(random_state=0, holdout_fraction=0.1).fit(rows)
    claimed, error = (model.results_[f"held_out_nll{part}_nats"] for part in ("", "_se"))
    fresh = -model.score(np.random.default_rng(13).normal(size=(4000, 2)))
    assert abs(claimed - fresh) < 4 * error
    assert fresh < 4

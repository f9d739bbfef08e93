"""The test of normality: its statistic in closed form, its level, its power."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

from jkoflow.blocks import AffineBlock
from jkoflow.certify import latent_normality
from jkoflow.certify.evidence import Evidence
from jkoflow.certify.latent_normality import claims, distance_to_normal
from jkoflow.flow import Flow
from jkoflow.laws import Gaussian, StandardNormal
from jkoflow.particles import Particles
from oracles.blocks import DTYPES, context_for, generator, make_block


def normal_rows(n: int, dim: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, dim, generator=generator(seed), dtype=torch.float64).to(dtype)


def claim_on(z: torch.Tensor, *, seed: int = 0):
    """The claim on rows that the flow leaves where they are."""
    (claim,) = claims(Evidence(Flow(StandardNormal(z.shape[1])), Particles(z), seed=seed))
    return claim


def p_value(claim) -> float:
    return float(claim.claim.split("p = ")[1].split(",")[0])


# ── the statistic ──


@pytest.mark.parametrize("dim", [1, 2, 7, 100, 784])
def test_mean_distance_is_that_of_a_large_sample(dim):
    reference = normal_rows(20_000 if dim < 100 else 2000, dim)
    for length in (0.0, 0.3, 1.0, 3.0, 30.0, 1e4):
        z = torch.zeros(dim, dtype=torch.float64)
        z[0] = length
        sampled = (reference - z).norm(dim=1)
        error = float(sampled.std()) / len(sampled) ** 0.5
        exact = float(latent_normality._mean_distance(torch.tensor([length**2], dtype=torch.float64), dim))
        assert exact == pytest.approx(float(sampled.mean()), abs=4 * error)


def test_mean_distance_in_one_dimension_is_in_closed_form():
    """E|a - Y| = 2 phi(a) + a (2 Phi(a) - 1)."""
    a = np.array([0.0, 0.01, 0.5, 2.0, 8.0, 1e3])
    exact = 2 * norm.pdf(a) + a * (2 * norm.cdf(a) - 1)
    found = latent_normality._mean_distance(torch.tensor(a**2), 1).numpy()
    np.testing.assert_allclose(found, exact, rtol=1e-12)


def test_distance_in_one_dimension_is_cramers():
    """2 ∫ (F_n - Phi)^2 dx (Székely & Rizzo 2013), by quadrature."""
    z = normal_rows(30, 1, seed=4) * 1.3 + 0.2
    at = np.linspace(-12, 12, 400_001)
    empirical = np.searchsorted(np.sort(z[:, 0].numpy()), at, "right") / len(z)
    cramer = 2 * np.sum((empirical - norm.cdf(at)) ** 2) * (at[1] - at[0])
    assert float(distance_to_normal(z)) == pytest.approx(cramer, rel=1e-3)


def test_distance_of_batches_is_that_of_each():
    z = torch.stack([normal_rows(20, 3, seed=seed) for seed in range(4)])
    torch.testing.assert_close(distance_to_normal(z), torch.stack([distance_to_normal(part) for part in z]))


# ── level and power ──


def test_p_values_of_normal_rows_are_uniform():
    found = [claim_on(normal_rows(40, 3, seed=seed), seed=seed) for seed in range(200)]
    p = np.array([p_value(claim) for claim in found])
    assert 3 <= (p <= 0.05).sum() <= 19  # 10 expected; outside has a probability below 0.01
    assert kstest(p, "uniform").pvalue > 0.01
    assert [claim.verdict for claim in found].count("fails") <= 4  # 1 expected


def variants() -> dict[str, torch.Tensor]:
    """Rows that are not normal, of 5 columns."""
    z = normal_rows(600, 5, seed=9)
    correlated = z.clone()
    correlated[:, 1] = 0.7 * z[:, 0] + math.sqrt(1 - 0.49) * z[:, 1]
    signs = torch.where(z[:, :1] > 0, 1.0, -1.0)
    return {
        "shifted": z + 0.2,
        "wide": 1.15 * z,
        "narrow": 0.85 * z,
        "correlated": correlated,
        "heavy tails": z / (normal_rows(600, 1, seed=3).square() / 2 + 0.5).sqrt(),
        "two modes": torch.cat([0.4 * z[:, :1] + 0.9 * signs, z[:, 1:]], dim=1),
    }


@pytest.mark.parametrize("name", variants())
def test_rows_that_are_not_normal_are_told_apart(name):
    claim = claim_on(variants()[name])
    assert claim.verdict == "fails"
    assert claim.measured > claim.bound
    assert claim.remedy


def test_a_shift_is_found_in_many_columns():
    assert claim_on(normal_rows(300, 200) + 0.1).verdict == "fails"
    assert claim_on(normal_rows(300, 200)).verdict != "fails"


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_looks_at_the_pushed_rows(dtype):
    rows = Particles((3 + 2 * normal_rows(300, 2)).to(dtype))
    matrix, offset = 0.5 * torch.eye(2, dtype=dtype), torch.full((2,), -1.5, dtype=dtype)
    right = Flow(StandardNormal(2), [AffineBlock(dim=2, matrix=matrix, offset=offset)])
    wrong = Flow(StandardNormal(2), [AffineBlock(dim=2, matrix=matrix, offset=offset + 0.5)])
    assert claims(Evidence(right, rows))[0].verdict != "fails"
    assert claims(Evidence(wrong, rows))[0].verdict == "fails"


# ── verdicts and edges ──


def test_verdict_follows_the_p_value():
    seen = set()
    for seed in range(60):
        claim = claim_on(normal_rows(60, 2, seed=seed) + 0.13, seed=seed)
        p = p_value(claim)
        expected = "fails" if p < 0.01 else "holds" if p >= 0.05 else "undecided"
        assert claim.verdict == expected
        assert (claim.measured > claim.bound) == (p < 0.01)
        seen.add(expected)
    assert seen == {"fails", "holds", "undecided"}


def test_too_few_rows_prove_nothing():
    assert claim_on(normal_rows(20, 2)).verdict == "undecided"
    assert claim_on(normal_rows(20, 2) + 5).verdict == "fails"
    assert claim_on(normal_rows(1, 2)).verdict == "undecided"


@pytest.mark.parametrize("rows", [None, Particles(torch.zeros(0, 2))])
def test_no_rows_are_undecided(rows):
    (claim,) = claims(Evidence(Flow(StandardNormal(2)), rows))
    assert (claim.verdict, claim.measured, claim.space) == ("undecided", None, "latent")


def test_a_row_that_is_no_number_is_undecided():
    z = normal_rows(60, 2)
    z[7] = math.nan
    assert claim_on(z).verdict == "undecided"


def test_another_base_law_is_undecided():
    base = Gaussian(mean=torch.zeros(2), covariance=4 * torch.eye(2))
    (claim,) = claims(Evidence(Flow(base), Particles(normal_rows(60, 2))))
    assert claim.verdict == "undecided"
    assert "Gaussian" in claim.assumption


def test_rows_are_capped_and_chosen_by_the_seed(monkeypatch):
    monkeypatch.setattr(latent_normality, "_ROWS", 100)
    z = normal_rows(3000, 2)
    assert claim_on(z).rows == 100
    assert claim_on(z, seed=1) == claim_on(z, seed=1)
    assert claim_on(z, seed=1).measured != claim_on(z, seed=2).measured


def test_context_is_used():
    block = make_block("neural_ode_context", dim=2)
    rows = normal_rows(60, 2)
    context = context_for(block, 60, torch.float64)
    both = [
        claims(Evidence(Flow(StandardNormal(2), [block]), Particles(rows, given)))[0].measured
        for given in (context, -context)
    ]
    assert both[0] != both[1]

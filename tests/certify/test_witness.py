"""Witnesses are normalised densities that come near the law of the rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from jkoflow.certify import witness as witness_module
from jkoflow.certify.normal_scores import NormalScores
from jkoflow.certify.seen import Seen
from jkoflow.certify.witness import Mixture, MixtureOfScores, fit_witnesses, gain
from jkoflow.errors import NumericalError
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles
from jkoflow.steps.mixture import fit_mixture
from oracles.blocks import generator


def normal_rows(n: int, seed: int = 3) -> Tensor:
    return torch.randn(n, 2, generator=generator(seed), dtype=torch.float64)


def seen(x: Tensor, log_q0: Tensor) -> Seen:
    return Seen(x, x, log_q0, log_q0, None)


def mixture_of_scores(x: Tensor) -> MixtureOfScores:
    maps = [NormalScores.of(column.numpy()) for column in x.T]
    return MixtureOfScores(x, [to_scores for to_scores in maps if to_scores is not None], 1, seed=0)


def test_mixture_proves_the_gap_of_a_model_that_is_too_wide() -> None:
    """E[log N(0, I) - log N(0, 4 I)] = KL, for a mixture that has learned the rows."""
    truth = 1 / 4 - 1 + 2 * math.log(2)
    rows = normal_rows(4000, seed=4)
    too_wide = StandardNormal(2).log_prob(rows / 2) - 2 * math.log(2)
    witness = Mixture(normal_rows(4000), 1, seed=0)
    assert float(gain(witness, seen(rows, too_wide)).mean()) == pytest.approx(truth, abs=0.02)


def test_mixture_of_scores_is_the_law_of_a_log_normal_table_with_correlated_columns() -> None:
    """log X ~ N(0, C): KL to the fitted law below 0.02, where a Gaussian's is above 0.3 nats."""
    root = torch.tensor([[1.0, 0.0], [0.8, 0.6]], dtype=torch.float64)
    fit, fresh = (normal_rows(6000, seed=s) @ root.T for s in (1, 2))
    law = StandardNormal(2).log_prob(fresh @ root.inverse().T) - math.log(0.6) - fresh.sum(1)
    gap = law - mixture_of_scores(fit.exp()).log_prob(fresh.exp())
    of_gaussian = law - Mixture(fit.exp(), 1, seed=0).log_prob(fresh.exp())
    assert -0.01 < float(gap.mean()) < 0.02
    assert float(of_gaussian.mean()) > 0.3


def test_mixture_of_scores_has_the_mass_one() -> None:
    """By importance sampling from a broad law."""
    witness = mixture_of_scores(normal_rows(2000).sinh())
    x = 3 * torch.from_numpy(np.random.default_rng(0).standard_t(2, (200_000, 2)))
    broad = torch.distributions.StudentT(torch.tensor(2.0, dtype=torch.float64), 0.0, 3.0)
    ratio = (witness.log_prob(x) - broad.log_prob(x).sum(1)).exp()
    assert float(ratio.mean()) == pytest.approx(1, abs=0.03)


def eight_spots(n: int, seed: int) -> Tensor:
    """Eight Gaussians, a tenth as wide as their circle."""
    angle = torch.randint(8, (n,), generator=generator(seed)) * math.tau / 8
    return torch.stack([angle.cos(), angle.sin()], dim=1) + 0.1 * normal_rows(n, seed=seed + 1)


def counts_of(x: Tensor, others: Tensor) -> tuple[int, int]:
    """How many mixtures of Gaussians, and how many of normal scores, are fitted."""
    found = fit_witnesses(x, seen(others, StandardNormal(2).log_prob(others)), seed=0)
    plain = sum(isinstance(witness, Mixture) for witness in found)
    return plain, len(found) - plain


def test_rows_carry_as_many_gaussians_as_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witness_module, "_COMPONENTS", (1, 2, 4, 8))
    others = eight_spots(2000, seed=5)
    assert counts_of(eight_spots(20, seed=1), others) == (0, 0)
    assert counts_of(eight_spots(150, seed=1), others) == (3, 2)
    assert counts_of(eight_spots(3000, seed=1), others) == (4, 3)
    assert counts_of(eight_spots(3000, seed=1).round(), others)[1] == 0


def test_no_more_gaussians_are_tried_where_more_explain_other_rows_less_well() -> None:
    """One Gaussian is the law: of 1, 5, 15, 50 and 150 few are kept."""
    assert max(counts_of(normal_rows(4000), normal_rows(1000, seed=9))) <= 2


def test_a_mixture_that_cannot_be_fitted_leaves_those_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit_few(particles: Particles, n_components: int, *rest: object) -> object:
        if n_components > 1:
            raise NumericalError("a covariance that is none", remedy="none")
        return fit_mixture(particles, n_components, *rest)

    monkeypatch.setattr(witness_module, "fit_mixture", fit_few)
    assert counts_of(eight_spots(3000, seed=1), eight_spots(2000, seed=5)) == (1, 1)


def test_a_row_on_which_the_model_has_no_density_counts_much_and_finitely() -> None:
    rows = normal_rows(50)
    found = gain(Mixture(normal_rows(200), 1, seed=0), seen(rows, torch.full((50,), -math.inf)))
    assert (found == 1e12).all()
    lost = gain(Mixture(normal_rows(200), 1, seed=0), seen(rows, torch.full((50,), math.nan)))
    assert (lost == -math.inf).all()

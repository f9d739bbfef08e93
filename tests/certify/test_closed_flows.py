"""Certificates of flows that end with the map of a mixture: none is accused wrongly, none passes wrongly."""

from __future__ import annotations

import math

import pytest
import torch

from jkoflow.blocks import MixtureBlock
from jkoflow.certify import Claim, Evidence, certify
from jkoflow.flow import Flow
from jkoflow.laws import GaussianMixture, StandardNormal
from jkoflow.particles import Particles
from oracles.blocks import generator, make_block, mixture_numbers
from oracles.quick_critics import use_quick_critics


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    use_quick_critics(monkeypatch)


def closed_flow(shift: float = 0.0) -> tuple[Flow, GaussianMixture]:
    """A flow of one closing whose law is the mixture, moved by `shift`."""
    weights, means, covariances = mixture_numbers(3, 2, seed=4)
    block = MixtureBlock.of(GaussianMixture(weights, means + shift, covariances=covariances)).float()
    return Flow(StandardNormal(2), [block]), GaussianMixture(weights, means, covariances=covariances)


def failing(flow: Flow, law: GaussianMixture) -> tuple[list[Claim], float | None]:
    rows = Particles(law.sample(2000, generator(6)).float())
    certificates = certify(Evidence(flow, rows))
    return list(certificates.failed), certificates.kl.lower


def test_true_law_is_not_accused() -> None:
    flow, law = closed_flow()
    failed, lower = failing(flow, law)
    assert not failed, [claim.claim for claim in failed]
    assert lower is not None
    assert lower < 0.02


def test_law_that_is_off_is_found_out() -> None:
    flow, law = closed_flow(shift=0.5)
    failed, lower = failing(flow, law)
    assert any("N(0, I)" in claim.claim for claim in failed)
    assert lower is not None
    assert lower > 0.05


def test_nothing_is_claimed_of_its_inverse() -> None:
    bound = make_block("mixture").inverse_lipschitz()
    assert (bound.bound, bound.proven) == (math.inf, False)
    assert bound.assumption == "MixtureBlock: no bound known"
    assert torch.isfinite(make_block("mixture").means).all()

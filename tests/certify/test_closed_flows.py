"""Certificates of flows that end with the map of a mixture: none is accused wrongly, none passes wrongly."""

from __future__ import annotations

import math

import pytest
import torch

from jkoflow.blocks import MixtureBlock
from jkoflow.certify import Evidence, certify, latent_normality
from jkoflow.certify.kl import bracket
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


def evidence_of(flow: Flow, law: GaussianMixture) -> Evidence:
    return Evidence(flow, Particles(law.sample(2000, generator(6)).float()))


def test_true_law_is_not_accused() -> None:
    certificates = certify(evidence_of(*closed_flow()))
    assert [claim.claim for claim in certificates.failed] == []
    assert certificates.kl.lower is not None
    assert certificates.kl.lower < 0.02


def test_law_that_is_off_is_found_out() -> None:
    evidence = evidence_of(*closed_flow(shift=0.5))
    (normality,) = (claim for claim in latent_normality.claims(evidence) if "N(0, I)" in claim.claim)
    assert normality.verdict == "fails"
    found, _ = bracket(evidence)
    assert found.lower is not None
    assert found.lower > 0.05


def test_nothing_is_claimed_of_its_inverse() -> None:
    bound = make_block("mixture").inverse_lipschitz()
    assert (bound.bound, bound.proven) == (math.inf, False)
    assert bound.assumption == "MixtureBlock: no bound known"
    assert torch.isfinite(make_block("mixture").means).all()

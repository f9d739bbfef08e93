"""The shape of a tail against laws whose index is known, and what follows for the KL."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from jkoflow.blocks import AffineBlock
from jkoflow.certify import Evidence
from jkoflow.certify.tails import Tail, claims, heavier_tails, tails
from jkoflow.flow import Flow
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles


def evidence(x: np.ndarray) -> Evidence:
    """Rows of a normal model."""
    dim = x.shape[1]
    flow = Flow(StandardNormal(dim), [AffineBlock.whitening(torch.zeros(dim), torch.eye(dim))])
    return Evidence(flow, Particles(torch.as_tensor(x)))


HEAVY = {
    "cauchy": lambda rng: rng.standard_cauchy((4000, 3)),
    "student 1.5": lambda rng: rng.standard_t(1.5, (4000, 5)),
    "pareto 1.2": lambda rng: rng.pareto(1.2, (4000, 2)),
    "one column of four": lambda rng: np.column_stack(
        [rng.normal(size=(4000, 3)), rng.standard_cauchy(4000)]
    ),
}
LIGHT = {
    "normal": lambda rng: rng.normal(size=(4000, 3)),
    "student 4": lambda rng: rng.standard_t(4, (4000, 2)),
    "laplace": lambda rng: rng.laplace(size=(4000, 8)),
    "log-normal": lambda rng: rng.lognormal(size=(4000, 2)),
    "broad component": lambda rng: (
        rng.normal(size=(4000, 2)) * rng.choice([3.0, 0.1], (4000, 1), p=[0.02, 0.98])
    ),
    "small": lambda rng: rng.normal(size=(150, 2)),
}


@pytest.mark.parametrize("name", HEAVY)
def test_heavier_tails_than_a_normal_model_can_hold(name: str) -> None:
    rows = evidence(HEAVY[name](np.random.default_rng(0)))
    heavier = heavier_tails(tails(rows))
    assert heavier
    assert heavier[0].growth == pytest.approx(2.0, abs=1e-3)
    assert "fails" in {claim.verdict for claim in claims(rows)}


@pytest.mark.parametrize("name", LIGHT)
def test_tails_that_a_normal_model_holds(name: str) -> None:
    rows = evidence(LIGHT[name](np.random.default_rng(0)))
    assert not heavier_tails(tails(rows))
    assert "fails" not in {claim.verdict for claim in claims(rows)}


def test_column_is_named() -> None:
    rows = evidence(HEAVY["one column of four"](np.random.default_rng(0)))
    heavier = heavier_tails(tails(rows))
    assert [tail.along for tail in heavier] == ["the radius", "column 4"]
    assert "column 4" in claims(rows)[1].claim


def test_what_a_model_can_hold_depends_on_its_growth() -> None:
    """A tail index of 1.5: too heavy where -log q_0 grows as |x|², not where it grows as |x|."""
    rows = Tail("the radius", 1 / 1.5, 0.05, 1 / 1.5, 2.0, 250)
    assert heavier_tails([rows]) == [rows]
    assert not heavier_tails([replace(rows, growth=1.0)])


def test_few_rows_are_undecided() -> None:
    (claim,) = claims(evidence(np.zeros((20, 2))))
    assert claim.verdict == "undecided"
    assert "20 held-out rows" in claim.assumption

"""Whether rows are of the law of the fit: other rows are told as that, and the same law is not accused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from jkoflow import JKOFlow
from jkoflow.blocks import AffineBlock
from jkoflow.certify import Claim, Evidence, certify, same_law
from jkoflow.certify.claim import INTEGRITY_READER, SAME_LAW_READER
from jkoflow.data import Schema
from jkoflow.flow import Flow
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles
from oracles.blocks import generator
from oracles.quick_training import use_quick_recipe

DIM = 2


def schema() -> Schema:
    """Columns with scales of their own, so that the Jacobian matters."""
    rows = np.random.default_rng(0).normal(size=(500, DIM)) * [3.0, 0.2] + [5.0, 1.0]
    return JKOFlow(objective="jko", block="affine", max_blocks=1).fit(rows).model_.schema


@pytest.fixture(scope="module")
def columns() -> Schema:
    return schema()


def recorded(columns: Schema, *, rows: int = 500) -> same_law.Recorded:
    """The expected NLL of N(0, I) under itself, in data units."""
    entropy = DIM / 2 * (1 + math.log(2 * math.pi))
    return same_law.Recorded(entropy - float(columns.log_jacobian(torch.zeros(1, DIM))[0]), rows, columns)


def evidence(shift: float, *, n: int = 500, seed: int = 1) -> Evidence:
    flow = Flow(StandardNormal(DIM), [AffineBlock(dim=DIM)])
    return Evidence(flow, Particles(torch.randn(n, DIM, generator=generator(seed)) + shift))


def told(columns: Schema, shift: float, **options: int) -> Claim:
    (claim,) = same_law.claims(evidence(shift, **options), recorded(columns))
    return claim


def test_other_rows_are_told_as_other_rows(columns: Schema) -> None:
    claim = told(columns, 2.0)
    assert claim.verdict == "fails"
    assert claim.measured == pytest.approx(DIM * 2.0**2 / 2, abs=0.3)
    assert "another law" in claim.remedy
    assert "500 rows that the fit set aside" in claim.assumption


def test_rows_of_the_same_law_are_not_accused(columns: Schema) -> None:
    verdicts = [told(columns, 0.0, n=200, seed=seed).verdict for seed in range(60)]
    assert "fails" not in verdicts


def test_nothing_is_said_where_nothing_was_recorded_or_given(columns: Schema) -> None:
    assert same_law.claims(evidence(0.0), None) == []
    bare = Evidence(evidence(0.0).flow, None)
    assert same_law.claims(bare, recorded(columns)) == []


def test_rows_without_a_density_are_undecided(columns: Schema) -> None:
    rows = torch.full((10, DIM), math.inf)
    (claim,) = same_law.claims(Evidence(evidence(0.0).flow, Particles(rows)), recorded(columns))
    assert claim.verdict == "undecided"
    assert claim.remedy


def test_what_fails_on_other_rows_blames_them_and_not_the_model(columns: Schema) -> None:
    far = evidence(4.0, n=80)
    certificates = certify(far, recorded=recorded(columns))
    failing = [claim for claim in certificates.failed if claim.reader != INTEGRITY_READER]
    assert {claim.reader for claim in failing} >= {SAME_LAW_READER, "latent normality"}
    assert all("another law" in claim.remedy for claim in failing)
    assert not [claim for claim in certify(far).failed if "another law" in claim.remedy]


def test_a_fit_records_what_its_rows_were(monkeypatch: pytest.MonkeyPatch) -> None:
    use_quick_recipe(monkeypatch)
    rows = np.random.default_rng(1).normal(size=(300, DIM))
    model = JKOFlow(max_blocks=1, random_state=0, holdout_fraction=0.2).fit(rows)
    found = same_law.recorded_of(model.model_)
    assert found is not None
    assert found.rows == 60
    held_out = [claim for claim in model.certify(rows[:80] + 6.0).claims if claim.reader == SAME_LAW_READER]
    assert [claim.verdict for claim in held_out] == ["fails"]
    assert not [claim for claim in model.certify().claims if claim.reader == SAME_LAW_READER]
    without = JKOFlow(max_blocks=1, random_state=0).fit(rows)
    assert same_law.recorded_of(without.model_) is None

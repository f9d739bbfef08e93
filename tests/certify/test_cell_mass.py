"""A flow that claims any density on a spike is caught by the mass of float cells; honest ones are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jkoflow import certify
from jkoflow.blocks import AffineBlock
from jkoflow.certify.cell_mass import claims
from jkoflow.certify.evidence import Evidence
from jkoflow.flow import Flow
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles


def evidence(scale: float, dim: int, rows: bool = True) -> Evidence:
    """Rows of Gamma(0.05) in float32, a quarter of which are one number, and a normal law of this size there."""
    gamma = np.random.default_rng(0).gamma(0.05, size=(400, dim))
    x = torch.as_tensor((gamma - gamma.mean(axis=0)) / gamma.std(axis=0)).float()
    one, centre = torch.eye(dim, dtype=torch.float64), x.amin(dim=0).double()
    blocks = [AffineBlock(dim=dim, matrix=one, offset=-centre), AffineBlock(dim=dim, matrix=one / scale)]
    flow = Flow(StandardNormal(dim), [block.float() for block in blocks])
    return Evidence(flow, Particles(x) if rows else None)


@pytest.mark.parametrize("dim", [1, 2])
def test_unresolved_spike_fails_with_its_mass_and_a_remedy(dim: int) -> None:
    (claim,) = claims(evidence(1e-12, dim))
    assert claim.verdict == "fails"
    assert claim.measured > 1
    assert "float64" in claim.remedy
    assert certify._READERS["cell mass"] is claims


@pytest.mark.parametrize("rows", [True, False])
def test_honest_flow_is_not_accused(rows: bool) -> None:
    for dim in (1, 3):
        (claim,) = claims(evidence(1.0, dim, rows))
        assert claim.verdict == "holds"
        assert 0 <= claim.measured < 1

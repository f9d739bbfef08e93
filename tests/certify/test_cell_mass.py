"""A flow that claims any density on a spike is caught by the mass of float cells; honest ones are not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from jkoflow import certify
from jkoflow.blocks import AffineBlock
from jkoflow.certify.cell_mass import claims
from jkoflow.certify.evidence import Evidence
from jkoflow.flow import Flow
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles


def evidence(scale: float, dim: int, rows: bool = True) -> Evidence:
    """Rows of Gamma(0.05) in float32, a quarter of which are one number; a normal law of this size there."""
    gamma = np.random.default_rng(0).gamma(0.05, size=(400, dim))
    x = torch.as_tensor((gamma - gamma.mean(axis=0)) / gamma.std(axis=0)).float()
    one, centre = torch.eye(dim, dtype=torch.float64), x.amin(dim=0).double()
    blocks = [AffineBlock(dim=dim, matrix=one, offset=-centre), AffineBlock(dim=dim, matrix=one / scale)]
    flow = Flow(StandardNormal(dim), [block.float() for block in blocks])
    return Evidence(flow, Particles(x) if rows else None)


@pytest.mark.parametrize("dim", [1, 2])
def test_unresolved_spike_fails_with_its_mass_and_a_remedy(dim: int) -> None:
    claim = claims(evidence(1e-12, dim))[0]
    assert claim.verdict == "fails"
    assert claim.measured > 1
    assert "float64" in claim.remedy
    assert certify._READERS["cell mass"] is claims


@pytest.mark.parametrize("rows", [True, False])
def test_honest_flow_is_not_accused(rows: bool) -> None:
    for dim in (1, 3):
        found = claims(evidence(1.0, dim, rows))
        assert {claim.verdict for claim in found} == {"holds"}
        assert all(0 <= claim.measured < 1 for claim in found)


class Collapsed(AffineBlock):
    """Claims e^25 times the density where the first column is this number, as blocks of many roundings do."""

    spike = math.nan

    def push_with_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, log_det = super().push_with_log_det(x, context)
        return y, log_det + 25.0 * (x[:, 0] == self.spike)


def beside_a_normal(kind: type[AffineBlock], spread: float) -> Evidence:
    """Gamma(0.05) beside a normal column, and a model whose first column is N(its least, spread^2)."""
    spiky = evidence(1.0, 1).held_out.x
    x = torch.cat([spiky, torch.randn(400, 1, generator=torch.Generator().manual_seed(0))], dim=1)
    least = torch.tensor([float(spiky.amin()), 0.0], dtype=torch.float64)
    one, scale = torch.eye(2, dtype=torch.float64), torch.tensor([1 / spread, 1.0], dtype=torch.float64)
    first = kind(dim=2, matrix=one, offset=-least).float()
    first.spike = float(spiky.amin())
    return Evidence(
        Flow(StandardNormal(2), [first, AffineBlock(dim=2, matrix=scale.diag()).float()]), Particles(x)
    )


def test_spike_in_one_of_two_columns_is_caught_by_samples_on_its_cell() -> None:
    """No cell of both columns holds two rows, so that the joint mass sees nothing."""
    joint, spike = claims(beside_a_normal(Collapsed, 1.0))
    assert (joint.verdict, spike.verdict) == ("holds", "fails")
    assert spike.measured == pytest.approx(1.0, abs=0.01)
    assert spike.remedy


@pytest.mark.parametrize("spread", [1.0, 1e-4, 1e-6])
def test_narrow_column_that_floats_resolve_is_not_accused(spread: float) -> None:
    joint, spike = claims(beside_a_normal(AffineBlock, spread))
    assert (joint.verdict, spike.verdict) == ("holds", "holds")
    width = 2.0**-26  # of float32 numbers between 1/8 and 1/4, where the spike is
    assert spike.measured == pytest.approx(width / (spread * np.sqrt(2 * np.pi)), rel=0.3)

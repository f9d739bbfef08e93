"""The mass on float cells: its value in closed form, at most 1 for a density, beyond it for what is none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from jkoflow.blocks import AffineBlock
from jkoflow.flow import Flow
from jkoflow.flow.cells import log_cell_mass
from jkoflow.laws import StandardNormal
from oracles.blocks import make_block


def narrow(scale: float, dtype: torch.dtype, at: float = 0.5, dim: int = 1) -> Flow:
    """The density of N(at, scale^2 I)."""
    matrix = torch.eye(dim, dtype=torch.float64) / scale
    offset = torch.full((dim,), -at / scale, dtype=torch.float64)
    return Flow(StandardNormal(dim), [AffineBlock(dim=dim, matrix=matrix, offset=offset).to(dtype=dtype)])


def neighbours(at: float, count: int, dtype: torch.dtype) -> Tensor:
    """Adjacent floats from `at` upwards, shape `(count, 1)`."""
    values = [torch.tensor(at, dtype=dtype)]
    while len(values) < count:
        values.append(torch.nextafter(values[-1], torch.tensor(math.inf, dtype=dtype)))
    return torch.stack(values)[:, None]


def test_cells_that_cover_half_of_a_density_have_half_of_its_mass() -> None:
    """N(0.5, s^2) with s of 100 spacings of float32: adjacent floats above 0.5, up to eight deviations."""
    spacing = 2.0**-24
    x = neighbours(0.5, 1600, torch.float32)
    flow = narrow(200 * spacing, torch.float32)
    doubled = torch.cat([x, x])  # a row counts once
    assert log_cell_mass(flow, doubled) == pytest.approx(math.log(0.5), abs=0.01)


def test_mass_of_one_cell_is_density_times_widths() -> None:
    x = torch.tensor([[0.75, 3.0]], dtype=torch.float32)
    flow = Flow(StandardNormal(2))
    expected = -math.log(2 * math.pi) - 0.5 * (0.75**2 + 9) + math.log(2.0**-24 * 2.0**-22)
    assert log_cell_mass(flow, x) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_spike_that_the_dtype_does_not_resolve_is_no_density(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    x = torch.tensor([[0.5]], dtype=dtype)
    assert log_cell_mass(narrow(1e-3 * eps, dtype), x) > 4
    assert log_cell_mass(narrow(1e3 * eps, dtype), x) < -4


def test_each_context_has_a_mass_of_its_own() -> None:
    block = make_block("neural_ode_context")
    flow = Flow(StandardNormal(block.dim), [block])
    x = torch.randn(6, block.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    width = block.velocity.context_dim
    context = torch.arange(3.0, dtype=torch.float64).repeat(2)[:, None].expand(6, width)
    alone = [log_cell_mass(flow, x[k::3], context[k::3]) for k in range(3)]
    assert log_cell_mass(flow, x, context) == pytest.approx(max(alone))

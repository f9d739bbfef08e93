"""The divergence by probes: exact with the unit directions, unbiased with random signs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jkoflow.blocks.ode.trace import exact_probes, rademacher_probes, velocity_and_divergence
from jkoflow.blocks.ode.velocity import MLPVelocity
from oracles.blocks import DTYPES, generator, make_velocity, points


def jacobians(field: MLPVelocity, x: Tensor, t: float) -> Tensor:
    """dv/dx row by row in reverse mode."""
    return torch.stack([torch.func.jacrev(lambda at: field(at[None], t)[0])(row) for row in x])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 2, 6])
def test_exact_probes_give_the_trace(dim: int, dtype: torch.dtype) -> None:
    field, x = make_velocity(dim, dtype, seed=1).requires_grad_(False), points(7, dim, dtype)
    velocity, divergence = velocity_and_divergence(field, x, 0.4, exact_probes(x))
    trace = jacobians(field, x, 0.4).diagonal(dim1=1, dim2=2).sum(dim=1)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(divergence, trace, atol=tolerance, rtol=tolerance)
    assert torch.equal(velocity, field(x, 0.4)) or torch.allclose(velocity, field(x, 0.4), atol=tolerance)


def test_hutchinson_is_unbiased_with_the_known_variance() -> None:
    """Mean tr J and variance 2 (|S|_F^2 - sum_i S_ii^2), S the symmetric part of J."""
    field, x = make_velocity(4, seed=1).requires_grad_(False), points(3, 4)
    jacobian = jacobians(field, x, 0.4)
    trace = jacobian.diagonal(dim1=1, dim2=2).sum(dim=1)
    symmetric = (jacobian + jacobian.transpose(1, 2)) / 2
    off = symmetric.square().sum(dim=(1, 2)) - symmetric.diagonal(dim1=1, dim2=2).square().sum(dim=1)
    draws = 20_000
    estimates = torch.stack(
        [
            velocity_and_divergence(
                field, row.expand(draws, 4), 0.4, rademacher_probes(row.expand(draws, 4), 1, generator(5))
            )[1]
            for row in x
        ]
    )
    standard_error = (2 * off / draws).sqrt()
    assert torch.all((estimates.mean(dim=1) - trace).abs() < 4 * standard_error)
    torch.testing.assert_close(estimates.var(dim=1), 2 * off, rtol=0.1, atol=0)


def test_hutchinson_with_more_probes_has_the_same_mean_and_less_variance() -> None:
    field = make_velocity(4, seed=1).requires_grad_(False)
    x = points(1, 4).expand(5000, 4)
    one, eight = (
        velocity_and_divergence(field, x, 0.4, rademacher_probes(x, count, generator(6)))[1]
        for count in (1, 8)
    )
    assert float(eight.var() / one.var()) == pytest.approx(1 / 8, rel=0.2)
    assert abs(float(one.mean() - eight.mean())) < 4 * float(one.std() + eight.std()) / 5000**0.5


def test_probes_are_signs_that_sum_to_the_mean() -> None:
    x = points(1000, 3, torch.float32)
    probes = rademacher_probes(x, 4, generator(0))
    assert probes.shape == (4, 1000, 3)
    assert probes.dtype == torch.float32
    assert set(probes.unique().tolist()) == {-0.5, 0.5}
    assert abs(float(probes.mean())) < 0.02


def test_probes_come_from_the_generator_alone() -> None:
    x = points(5, 3)
    torch.manual_seed(1)
    first = rademacher_probes(x, 2, generator(3))
    torch.manual_seed(2)
    assert torch.equal(first, rademacher_probes(x, 2, generator(3)))
    assert not torch.equal(first, rademacher_probes(x, 2, generator(4)))

"""The hand-written backward pass of the network with tangents, and the matrix product under it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jkoflow.blocks.ode.velocity import VelocityField
from jkoflow.blocks.ode.velocity.perceptron import product
from oracles.blocks import DTYPES, generator, make_velocity, points

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("context_dim", [0, 2])
@pytest.mark.parametrize(("dim", "k"), [(1, 1), (2, 2), (5, 1), (4, 3)])
@pytest.mark.parametrize("radius", [1.0, 50.0])
def test_gradients_are_those_of_automatic_differentiation(
    radius: float, dim: int, k: int, context_dim: int, dtype: torch.dtype
) -> None:
    """Of x, the tangents and every parameter, inside the taper and where it acts, against jvp."""
    field = make_velocity(dim, dtype, context_dim=context_dim, radius=radius, seed=1)
    x = points(7, dim, dtype).requires_grad_()
    tangents = torch.randn(k, 7, dim, generator=generator(3), dtype=torch.float64).to(dtype).requires_grad_()
    context = points(7, context_dim, dtype, seed=2) if context_dim else None
    weigh = torch.randn(k + 1, 7, dim, generator=generator(4), dtype=torch.float64).to(dtype)

    def gradients(with_tangents: object) -> tuple[Tensor, ...]:
        value, slope = with_tangents(field, x, 0.3, tangents, context)
        loss = (weigh[0] * value).sum() + (weigh[1:] * slope).sum()
        return torch.autograd.grad(loss, [x, tangents, *field.parameters()])

    got, expected = gradients(type(field).with_tangents), gradients(VelocityField.with_tangents)
    for mine, reference in zip(got, expected, strict=True):
        scale = float(reference.abs().max()) + 1
        torch.testing.assert_close(mine, reference, atol=scale * TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per_row", [True, False])
@pytest.mark.parametrize(("dim", "context_dim"), [(1, 0), (2, 0), (20, 0), (3, 2)])
def test_gradients_of_values_are_those_of_automatic_differentiation(
    dim: int, context_dim: int, dtype: torch.dtype, *, per_row: bool
) -> None:
    """Of every parameter, with one time and one for each row; rows that want a gradient go the other way."""
    field = make_velocity(dim, dtype, context_dim=context_dim, seed=1)
    x = points(9, dim, dtype)
    t = torch.linspace(0, 1, 9, dtype=dtype)[:, None] if per_row else 0.3
    context = points(9, context_dim, dtype, seed=2) if context_dim else None
    weigh = torch.randn(9, dim, generator=generator(4), dtype=torch.float64).to(dtype)

    def gradients(at: Tensor) -> tuple[Tensor, ...]:
        value = field.raw(at, t, context)
        return value.detach(), *torch.autograd.grad((weigh * value).sum(), list(field.parameters()))

    for mine, reference in zip(gradients(x), gradients(x.clone().requires_grad_()), strict=True):
        scale = float(reference.abs().max()) + 1
        torch.testing.assert_close(mine, reference, atol=scale * TOLERANCE[dtype], rtol=0)


def test_the_same_values_with_and_without_gradients() -> None:
    field, x = make_velocity(3, seed=1), points(6, 3)
    kept = field.raw(x, 0.3)
    assert kept.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(kept.detach(), field.raw(x, 0.3), atol=1e-13, rtol=1e-13)


def test_the_same_numbers_with_and_without_gradients() -> None:
    field, x = make_velocity(3, seed=1), points(6, 3)
    tangents = torch.randn(2, 6, 3, generator=generator(3), dtype=torch.float64)
    kept = field.with_tangents(x, 0.3, tangents)
    with torch.no_grad():
        bare = field.with_tangents(x, 0.3, tangents)
    for one, other in zip(kept, bare, strict=True):
        torch.testing.assert_close(one.detach(), other, atol=1e-13, rtol=1e-13)


def test_constant_tangents_need_no_gradient() -> None:
    field, x = make_velocity(3, seed=1), points(6, 3).requires_grad_()
    tangents = torch.ones(1, 6, 3, dtype=torch.float64)
    value, slope = field.with_tangents(x, 0.3, tangents)
    (value.sum() + slope.square().sum()).backward()
    assert x.grad is not None
    assert tangents.grad is None


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_product(dtype: torch.dtype, *, onednn: bool) -> None:
    """Contiguous and transposed operands, a bias, few, many and no rows; with oneDNN switched off as well."""
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = onednn
    try:
        for n, n_in, n_out in ((40, 30, 20), (3, 5, 2), (0, 4, 20), (8000, 9, 17), (9, 8000, 17)):
            x = torch.randn(n, n_in, generator=generator(1), dtype=torch.float64)
            weight = torch.randn(n_out, n_in, generator=generator(2), dtype=torch.float64) / n_in**0.5
            bias = torch.randn(n_out, generator=generator(3), dtype=torch.float64)
            expected = torch.einsum("ni,oi->no", x, weight)
            given, by = x.to(dtype), weight.to(dtype)
            for left in (given, given.T.contiguous().T):
                for right in (by, by.T.contiguous().T):
                    torch.testing.assert_close(product(left, right).double(), expected, atol=1e-5, rtol=1e-5)
                    shifted = product(left, right, bias.to(dtype)).double()
                    torch.testing.assert_close(shifted, expected + bias, atol=1e-5, rtol=1e-5)
    finally:
        torch.backends.mkldnn.enabled = before

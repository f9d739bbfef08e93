"""The velocity network: identity at the start, time and context inputs, taper, exact tangents."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from jkoflow.blocks.ode.velocity import MLPVelocity, VelocityField, velocity_from_config
from jkoflow.errors import RunFolderError
from oracles.blocks import DTYPES, generator, make_velocity, points

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


def tapered(dim: int, dtype: torch.dtype) -> tuple[MLPVelocity, Tensor]:
    """A field of radius 1 and points inside, in and beyond the shell from 1 to 2, its edges included."""
    direction = torch.nn.functional.normalize(points(9, dim, dtype), dim=1)
    lengths = torch.tensor([0.0, 0.5, 1.0, 1.2, 1.5, 1.8, 1.99, 2.0, 3.0], dtype=dtype)
    return make_velocity(dim, dtype, radius=1.0, seed=11), lengths[:, None] * direction


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("context_dim", [0, 2])
@pytest.mark.parametrize("dim", [1, 3])
def test_tangents_are_those_of_forward_mode_differentiation(
    dim: int, context_dim: int, dtype: torch.dtype
) -> None:
    """The one-pass tangents against `torch.func.jvp`, which is the base class's way."""
    field = make_velocity(dim, dtype, context_dim=context_dim, seed=1).requires_grad_(False)
    x = points(6, dim, dtype)
    context = points(6, context_dim, dtype, seed=2) if context_dim else None
    tangents = torch.randn(4, 6, dim, generator=generator(3), dtype=torch.float64).to(dtype)
    value, slope = field.with_tangents(x, 0.3, tangents, context)
    expected_value, expected_slope = VelocityField.with_tangents(field, x, 0.3, tangents, context)
    torch.testing.assert_close(value, expected_value, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    torch.testing.assert_close(slope, expected_slope, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_tangents_in_the_taper(dim: int, dtype: torch.dtype) -> None:
    field, x = tapered(dim, dtype)
    field.requires_grad_(False)
    tangents = torch.randn(3, len(x), dim, generator=generator(3), dtype=torch.float64).to(dtype)
    value, slope = field.with_tangents(x, 0.7, tangents)
    expected_value, expected_slope = VelocityField.with_tangents(field, x, 0.7, tangents)
    torch.testing.assert_close(value, expected_value, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    torch.testing.assert_close(slope, expected_slope, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    assert float(slope[:, 3:6].abs().min()) > 0
    assert float(slope[:, 7:].abs().max()) == 0


def test_tangents_with_a_time_for_each_row() -> None:
    field = make_velocity(2, seed=1).requires_grad_(False)
    x, t = points(5, 2), torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
    each = torch.cat([field(x[i : i + 1], float(t[i])) for i in range(5)])
    torch.testing.assert_close(field(x, t), each)


def test_field_varies_with_position_time_and_context() -> None:
    field = make_velocity(2, context_dim=1, seed=1)
    x, context = points(4, 2), points(4, 1)
    at = field(x, 0.2, context)
    assert not torch.allclose(at, field(x, 0.8, context))
    assert not torch.allclose(at, field(x, 0.2, -context))
    assert not torch.allclose(at, field(-x, 0.2, context))


def test_untrained_field_is_zero_but_can_learn() -> None:
    field = MLPVelocity(dim=3, generator=generator(0))
    x = points(5, 3, torch.float32)
    assert not field(x, 0.4).any()
    field(x, 0.4).sum().backward()
    assert float(field.out.bias.grad.abs().min()) > 0


def test_taper_is_one_inside_zero_outside_and_smooth_between() -> None:
    """w = 1 up to the radius and 0 from twice the radius; two derivatives are continuous at both ends."""
    field = make_velocity(1, radius=1.0)
    lengths = torch.linspace(0.9, 2.1, 12001, dtype=torch.float64)[:, None]
    raw, value = field.raw(lengths, 0.5), field(lengths, 0.5)
    weight = (value / (field.amplitude * raw)).detach()[:, 0]
    assert torch.all(weight[lengths[:, 0] <= 1] == 1)
    assert torch.all(weight[lengths[:, 0] >= 2] == 0)
    assert torch.all(weight.diff() <= 0)
    h = float(lengths[1] - lengths[0])
    assert float((weight.diff().diff() / h**2).diff().abs().max()) < 0.02


def test_reach_is_beyond_the_particles() -> None:
    """No particle, nor anything the standard normal law is likely to draw, feels the taper."""
    field = MLPVelocity(dim=2, generator=generator(0)).double()
    x = points(200, 2) * 5
    field.set_reach(x, displacement=0.3)
    assert float(field.radius) == pytest.approx(2 * float(x.norm(dim=1).max()))
    assert float(field.amplitude) == pytest.approx(0.3)
    field.set_reach(x / 1000, displacement=0.3)
    assert float(field.radius) == pytest.approx(2 * (math.sqrt(2) + 4))


def test_amplitude_scales_the_field() -> None:
    x = points(4, 2)
    torch.testing.assert_close(
        make_velocity(2, strength=1.5)(x, 0.1), 3 * make_velocity(2, strength=0.5)(x, 0.1)
    )


def test_same_generator_gives_the_same_weights() -> None:
    first, second = (MLPVelocity(dim=2, generator=generator(4)).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = MLPVelocity(dim=2, generator=generator(5)).state_dict()
    assert not torch.equal(first["hidden.0.weight"], other["hidden.0.weight"])


def test_weights_do_not_depend_on_the_global_generator() -> None:
    torch.manual_seed(1)
    first = MLPVelocity(dim=2, generator=generator(4)).state_dict()
    torch.manual_seed(2)
    second = MLPVelocity(dim=2, generator=generator(4)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_frequencies_have_the_scale_asked_for() -> None:
    field = MLPVelocity(dim=4, n_frequencies=5000, frequency_scale=2.5, generator=generator(0))
    assert float(field.frequencies.std()) == pytest.approx(2.5, rel=0.03)


def test_config_builds_the_same_architecture() -> None:
    field = make_velocity(2, context_dim=3, radius=1.5, seed=9)
    again = velocity_from_config(field.to_config()).double()
    again.load_state_dict(field.state_dict())
    x, context = points(6, 2), points(6, 3)
    assert torch.equal(field(x, 0.3, context), again(x, 0.3, context))


def test_unknown_field_is_refused() -> None:
    with pytest.raises(RunFolderError, match=r"velocity.*mlp.*'transformer'"):
        velocity_from_config({"kind": "transformer"})

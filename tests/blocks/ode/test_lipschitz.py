"""Lipschitz constants of fields and of the inverses of their maps, against exact ones and sampled slopes."""

from __future__ import annotations

import math

import pytest
import torch

from jkoflow.blocks import AffineBlock, Block, NeuralODEBlock
from jkoflow.blocks.ode.velocity import MLPVelocity, VelocityField
from jkoflow.certify.integrity import jacobians
from oracles.blocks import make_velocity, points

SILU_SLOPE = 1.0998393194498
SILU_STEEPEST = 2.3993572805154


def fields(dim: int) -> dict[str, MLPVelocity]:
    """Networks of every kind of term."""
    return {
        "plain": make_velocity(dim, seed=1),
        "frequencies": make_velocity(dim, seed=2, frequency_scale=3.0),
        "amplitude": make_velocity(dim, seed=3, strength=5.0),
        "taper": make_velocity(dim, seed=4, radius=1.0),
        "small taper": make_velocity(dim, seed=5, radius=0.1),
    }


@pytest.mark.parametrize("name", fields(1))
@pytest.mark.parametrize("dim", [1, 3])
def test_velocity_constant_is_above_every_slope(dim, name):
    field = fields(dim)[name].requires_grad_(False)
    x = points(3000, dim, seed=3) * (float(field.radius) if field.radius < 2 else 1.0)
    largest = 0.0
    for t in (0.0, 0.5, 1.0):
        derivative = field.with_tangents(x, t, torch.eye(dim).double()[:, None].expand(dim, len(x), dim))[1]
        largest = max(largest, float(torch.linalg.matrix_norm(derivative.permute(1, 2, 0), ord=2).max()))
    bound = field.lipschitz(steps=1)
    assert largest <= bound <= 60 * largest


def scalar(along_x: float, out: float, *, along_wave: float = 0.0, frequency: float = 0.0) -> MLPVelocity:
    """F(x) = out silu(along_x x + along_wave sin(frequency x) + b), steepest at x = 0."""
    field = MLPVelocity(dim=1, width=1, depth=1, n_frequencies=int(frequency != 0)).double()
    with torch.no_grad():
        field.hidden[0].weight.zero_()
        field.hidden[0].weight[0, 0] = along_x
        field.hidden[0].bias.fill_(SILU_STEEPEST)
        field.out.weight.fill_(out)
        if frequency:
            field.hidden[0].weight[0, 1] = along_wave
            field.frequencies.fill_(frequency)
    return field.requires_grad_(False)


@pytest.mark.parametrize(
    ("field", "constant"),
    [
        (scalar(0.7, -3.0), 0.7 * 3.0 * SILU_SLOPE),
        (scalar(0.0, 2.0, along_wave=-0.7, frequency=5.0), 0.7 * 2.0 * 5.0 * SILU_SLOPE),
        (scalar(4.0, 2.0, along_wave=0.7, frequency=5.0), (4.0 + 0.7 * 5.0) * 2.0 * SILU_SLOPE),
    ],
    ids=["linear", "waves", "both"],
)
def test_velocity_constant_is_attained_by_one_unit(field, constant):
    field.amplitude.fill_(-1.5)
    assert field.lipschitz() == pytest.approx(1.5 * constant, rel=1e-6)
    origin, along = torch.zeros(1, 1).double(), torch.ones(1, 1, 1).double()
    assert abs(float(field.with_tangents(origin, 0.3, along)[1])) == pytest.approx(1.5 * constant, rel=1e-6)


def test_two_layers_multiply():
    field = MLPVelocity(dim=1, width=1, depth=2, n_frequencies=0).double()
    with torch.no_grad():
        for layer, weight in zip((*field.hidden, field.out), (2.0, -3.0, 0.5), strict=True):
            layer.weight.zero_()
            layer.weight[0, 0] = weight
    assert field.lipschitz() == pytest.approx(3.0 * SILU_SLOPE**2, rel=1e-6)


def test_layers_that_cancel_are_seen_to():
    """A_2 A_1 = 0: only the part of SiLU that is not z/2 remains, 0.59984 instead of 1.09984 for a layer."""
    field = MLPVelocity(dim=1, width=2, depth=1, n_frequencies=0).double()
    with torch.no_grad():
        field.hidden[0].weight.zero_()
        field.hidden[0].weight[:, 0] = torch.tensor([1.0, -1.0])
        field.out.weight.copy_(torch.tensor([[1.0, 1.0]]))
    assert field.lipschitz() == pytest.approx((SILU_SLOPE - 0.5) * 2, rel=1e-6)


def test_the_slope_of_the_taper_counts_where_the_field_has_grown():
    """F(x) = x up to a constant that makes F(0) = 0: in the shell w' F is what is steepest."""
    field = scalar(1.0, 1.0)
    field.hidden[0].bias.fill_(30.0)
    field.out.bias.copy_(-field.raw(torch.zeros(1, 1).double(), 0.0)[0])
    field.radius.fill_(5.0)
    x = torch.linspace(5, 10, 2001, dtype=torch.float64)[:, None]
    steepest = float(field.with_tangents(x, 0.0, torch.ones(1, 2001, 1).double())[1].abs().max())
    assert 2.5 < steepest <= field.lipschitz() < 2 * steepest


def test_taper_costs_a_bounded_factor():
    plain = make_velocity(3, seed=4).lipschitz()
    tapered = make_velocity(3, seed=4, radius=1e6).lipschitz()
    assert plain <= tapered <= 4 * plain


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_the_discrete_inverse_stretches_no_more_than_its_bound(seed, steps):
    dim = 2
    radius = 2.0 if seed else math.inf
    field = make_velocity(dim, seed=seed, strength=0.01, radius=radius, frequency_scale=1.0)
    field.amplitude.mul_(0.5 * steps / field.lipschitz(steps=steps))  # hK = 1/2
    block = NeuralODEBlock(field, gamma=1.0, steps=steps).requires_grad_(False)
    constant = block.inverse_lipschitz()
    assert constant.proven
    one_step = 0.5 + 0.5**2 / 2 + 0.5**3 / 6 + 0.5**4 / 24
    assert constant.bound == pytest.approx((1 - one_step) ** -steps, rel=1e-6)
    x = points(2000, dim, seed=seed)
    smallest = float(torch.linalg.svdvals(jacobians(block, x)).min())
    assert 1 / smallest <= constant.bound
    y = x + 0.1 * points(2000, dim, seed=seed + 30)
    assert ((block.push(x) - block.push(y)).norm(dim=1) * constant.bound >= (x - y).norm(dim=1)).all()


def test_runge_kutta_of_the_steepest_field_nearly_attains_its_bound():
    """v = -K x near 0: the inverse stretches by 1/(1 - s + s²/2 ...), the bound is 1/(1 - s - s²/2 ...)."""
    s = 0.05
    field = scalar(1.0, -s / SILU_SLOPE)
    with torch.no_grad():
        field.out.bias.copy_(-field.raw(torch.zeros(1, 1).double(), 0.0)[0])  # 0 at 0, which stays there
    block = NeuralODEBlock(field, gamma=1.0, steps=1).requires_grad_(False)
    stretch = 1 / float(jacobians(block, torch.zeros(1, 1).double())[0, 0, 0])
    assert stretch == pytest.approx(math.exp(s), rel=1e-6)
    assert stretch <= block.inverse_lipschitz().bound <= stretch + 1.2 * s**2


def test_coarse_steps_have_no_proven_bound_and_finer_ones_do():
    field = make_velocity(2, seed=1)
    constant = field.lipschitz()
    coarse, fine = (
        NeuralODEBlock(field, gamma=1.0, steps=steps).inverse_lipschitz()
        for steps in (1, math.ceil(2 * constant))
    )
    assert (coarse.proven, fine.proven) == (False, True)
    assert coarse.bound == pytest.approx(math.exp(constant))
    assert fine.bound >= coarse.bound * 0.99
    field.amplitude.fill_(1e6)
    assert NeuralODEBlock(field, gamma=1.0, steps=1).inverse_lipschitz().bound == math.inf


def test_other_blocks_have_no_known_bound():
    class Other(AffineBlock):
        pass

    assert Other(dim=2).inverse_lipschitz().proven  # an affine block is one by its matrix

    class Unknown(Block):
        push = push_with_log_det = push_with_jacobian = push_with_trace = lambda self: None
        invert = to_config = push

    constant = Unknown(dim=2, gamma=1.0).inverse_lipschitz()
    assert (constant.bound, constant.proven) == (math.inf, False)
    singular = AffineBlock(dim=2, matrix=torch.zeros(2, 2)).inverse_lipschitz()
    assert (singular.bound, singular.proven) == (math.inf, False)


def test_a_field_that_tells_no_constant_has_none_known():
    class Plain(VelocityField):
        forward = to_config = lambda self: None

    block = NeuralODEBlock(Plain(dim=1), gamma=1.0, steps=1)
    assert block.inverse_lipschitz().bound == math.inf
    assert not block.inverse_lipschitz().proven

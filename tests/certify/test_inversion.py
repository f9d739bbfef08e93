"""Errors of computed inverses and Lipschitz constants, against affine flows and exact bounds."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from jkoflow.blocks import AffineBlock, Block, Inverse, NeuralODEBlock
from jkoflow.blocks.ode.lipschitz import velocity_lipschitz
from jkoflow.blocks.ode.velocity import MLPVelocity, VelocityField
from jkoflow.bounds import inversion_w2_by_block
from jkoflow.certify import inversion
from jkoflow.certify.evidence import Evidence
from jkoflow.certify.integrity import jacobians
from jkoflow.flow import Flow
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles
from oracles.blocks import DTYPES, context_for, generator, make_block, make_velocity, points

SILU_SLOPE = 1.0998393194498
SILU_STEEPEST = 2.3993572805154


def affine(scales: list[float], *, kind: type[AffineBlock] = AffineBlock, seed: int = 0) -> AffineBlock:
    """A = Q diag(scales) Q^T, so that L = 1/min(scales)."""
    dim = len(scales)
    q = torch.linalg.qr(torch.randn(dim, dim, generator=generator(seed), dtype=torch.float64))[0]
    matrix = q @ torch.diag(torch.tensor(scales, dtype=torch.float64)) @ q.T
    offset = torch.randn(dim, generator=generator(seed + 1), dtype=torch.float64)
    return kind(dim=dim, matrix=matrix, offset=offset)


def gentle(dim: int, dtype: torch.dtype = torch.float64, *, seed: int = 1, **options: Any) -> NeuralODEBlock:
    """A block whose inverse has a proven Lipschitz constant."""
    field = make_velocity(dim, dtype, seed=seed, **{"strength": 0.02, **options})
    return NeuralODEBlock(field, gamma=0.5, steps=2).requires_grad_(False)


def named(flow: Flow, held_out: Particles | None = None, *, seed: int = 0):
    """Claims by sentence; those of blocks by sentence and number."""
    found = inversion.claims(Evidence(flow, held_out, seed=seed))
    return {(c.claim if c.block is None else (c.claim, c.block)): c for c in found}


def by_weights(found):
    return found[f"{inversion._W2}, L_n from the weights"]


def by_samples(found):
    return found[f"{inversion._W2}, L_n sampled"]


class Shifted(AffineBlock):
    """The computed inverse is off by a constant, which the block does not admit."""

    shift = torch.tensor([3e-3, -4e-3], dtype=torch.float64)

    def invert(self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None) -> Inverse:
        x = super().invert(y, context, tolerance=tolerance).x + self.shift.to(y)
        return Inverse(x, torch.zeros(len(x)))


# ── Proposition 5.4 ──


def test_affine_flow_with_known_errors():
    """Every number of the proposition in closed form: two blocks, each off by a constant."""
    first, second = affine([0.5, 2.0], kind=Shifted), affine([0.25, 1.0], kind=Shifted, seed=7)
    found = named(Flow(StandardNormal(2), [first, second]))
    for number, (block, constant) in enumerate(((first, 2.0), (second, 4.0)), start=1):
        error = found[(inversion._ERROR, number)]
        assert error.measured == pytest.approx(float((block.matrix @ block.shift).norm()), rel=1e-9)
        assert error.verdict == "fails"
        lipschitz = found[(inversion._LIPSCHITZ, number)]
        assert lipschitz.bound == pytest.approx(constant, rel=1e-12)
        assert lipschitz.measured == pytest.approx(constant, rel=1e-9)
        assert (lipschitz.verdict, lipschitz.kind) == ("holds", "theorem")
    # x = A_1^-1 (A_2^-1 (z - b_2) + s - b_1) + s against the same without s
    apart = torch.linalg.solve(first.matrix, second.shift) + first.shift
    errors = [float((block.matrix @ block.shift).norm()) for block in (first, second)]
    claim = by_weights(found)
    assert claim.measured == pytest.approx(float(apart.norm()), rel=1e-6)
    assert claim.bound == pytest.approx(2 * errors[0] + 2 * 4 * errors[1], rel=1e-9)
    assert (claim.verdict, claim.kind) == ("holds", "theorem")
    assert by_samples(found).bound == pytest.approx(claim.bound, rel=1e-6)
    # and pushed forward: A_2 (A_1 s + s)
    total = second.matrix @ (first.matrix @ first.shift + second.shift)
    assert found[inversion._TOTAL].measured == pytest.approx(float(total.norm()), rel=1e-6)


def test_the_bound_is_attained_where_every_error_is_stretched_most():
    """A = I/2, errors in one direction: W2 is the bound itself."""
    blocks = [Shifted(dim=2, matrix=0.5 * torch.eye(2, dtype=torch.float64)) for _ in range(3)]
    claim = by_weights(named(Flow(StandardNormal(2), blocks)))
    assert claim.measured == pytest.approx(0.005 * (1 + 2 + 4), rel=1e-6)
    assert claim.measured == pytest.approx(claim.bound, rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gentle_networks_have_a_finite_theorem(dtype):
    flow = Flow(StandardNormal(2), [gentle(2, dtype, seed=seed) for seed in (1, 2)])
    claim = by_weights(named(flow))
    assert (claim.verdict, claim.kind) == ("holds", "theorem")
    assert 0 < claim.measured <= claim.bound < 100 * TOLERANCE[dtype]


TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 2, 5, 20])
def test_honest_flows_are_not_accused(dim, dtype):
    blocks: list[Block] = [make_block("affine", dtype, dim)]
    blocks += [
        NeuralODEBlock(make_velocity(dim, dtype, seed=seed, radius=3 * dim**0.5), gamma=1.0, steps=2)
        for seed in (dim, dim + 50)
    ]
    found = named(Flow(StandardNormal(dim), blocks))
    assert [name for name, claim in found.items() if claim.verdict == "fails"] == []
    for number in (1, 2, 3):
        assert found[(inversion._ERROR, number)].verdict == "holds"
        lipschitz = found[(inversion._LIPSCHITZ, number)]
        assert lipschitz.measured <= lipschitz.bound
    # Networks this strong have no proven constant: told, and not called a theorem.
    claim = by_weights(found)
    assert (claim.verdict, claim.kind) == ("undecided", "upper-under-assumption")
    assert "e^K" in claim.assumption
    assert claim.measured <= claim.bound
    assert by_samples(found).verdict == "holds"
    assert by_samples(found).bound <= claim.bound


def test_the_bound_is_that_of_the_claims_on_blocks():
    found = named(Flow(StandardNormal(2), [affine([0.5, 2.0]), gentle(2), gentle(2, seed=5)]))
    errors = [found[(inversion._ERROR, n)].measured for n in (1, 2, 3)]
    constants = [found[(inversion._LIPSCHITZ, n)].bound for n in (1, 2, 3)]
    assert by_weights(found).bound == pytest.approx(inversion_w2_by_block(errors, constants))


def test_latent_rows_are_pulled_through_the_later_blocks():
    """The error of the first block is measured where the second one sends the noise."""

    class OffAtTheRight(AffineBlock):
        def invert(
            self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None
        ) -> Inverse:
            x = super().invert(y, context, tolerance=tolerance).x
            return Inverse(x + (y[:, :1] > 50), torch.zeros(len(x)))

    first = OffAtTheRight(dim=2, matrix=torch.eye(2, dtype=torch.float64))
    far = AffineBlock(
        dim=2, matrix=torch.eye(2, dtype=torch.float64), offset=torch.full((2,), -100.0, dtype=torch.float64)
    )
    alone, after = named(Flow(StandardNormal(2), [first])), named(Flow(StandardNormal(2), [first, far]))
    assert alone[(inversion._ERROR, 1)].measured < 1e-12
    assert after[(inversion._ERROR, 1)].measured == pytest.approx(math.sqrt(2))


def test_rounding_is_an_error_of_the_inverse_and_not_of_the_map():
    """The inverse as it is computed in float32, the map without rounding."""
    matrix, offset = torch.full((1, 1), 1 / 3), torch.full((1,), -1.0)
    block = AffineBlock(dim=1, matrix=matrix, offset=offset)
    evidence = Evidence(Flow(StandardNormal(1), [block]), None)
    noise = StandardNormal(1).sample(inversion._ROWS, evidence.stream("inversion")).float()
    image = block.invert(noise).x.double() * float(matrix) - 1
    expected = float((image - noise.double()).square().mean().sqrt())
    error = named(evidence.flow)[(inversion._ERROR, 1)]
    assert 3e-9 < expected < 2e-7
    assert error.measured == pytest.approx(expected, rel=1e-9)
    assert error.verdict == "holds"


def test_an_inverse_that_is_wrong_in_float32_alone_is_caught():
    class Wrong(AffineBlock):
        def invert(
            self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None
        ) -> Inverse:
            x = super().invert(y, context, tolerance=tolerance).x
            return Inverse(x + 0.01 * (y.dtype == torch.float32), torch.zeros(len(x)))

    found = named(Flow(StandardNormal(2), [Wrong(dim=2)]))
    assert found[(inversion._ERROR, 1)].verdict == "fails"
    assert by_weights(found).measured == pytest.approx(0.01 * math.sqrt(2), rel=1e-4)


def test_an_inverse_that_is_no_number_fails():
    class NoNumber(AffineBlock):
        def invert(
            self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None
        ) -> Inverse:
            return Inverse(y * math.nan, torch.zeros(len(y)))

    found = named(Flow(StandardNormal(2), [NoNumber(dim=2), AffineBlock(dim=2)]))
    assert found[(inversion._ERROR, 1)].verdict == "fails"
    assert found[inversion._TOTAL].verdict == "fails"
    assert by_weights(found).verdict == by_samples(found).verdict == "undecided"


def test_intervals_hold_the_error():
    """Errors of a known law: |N(0, s^2 I)| has the root mean square s sqrt(d)."""
    errors = 0.3 * torch.randn(100, 500, 3, generator=generator(0), dtype=torch.float64).norm(dim=2)
    inside = 0
    for rows in errors:
        measured, (low, high) = inversion._root_mean_square(rows)
        assert low < measured < high
        inside += low <= 0.3 * math.sqrt(3) <= high
    assert 88 <= inside <= 100  # 95 expected
    assert inversion._root_mean_square(torch.tensor([2.0])) == (2.0, (0.0, math.inf))


# ── Lipschitz constants ──


class Waves(VelocityField):
    """v(x) = -a sin(x): one Runge-Kutta step of it folds the line where a is large."""

    def __init__(self, strength: float) -> None:
        super().__init__(dim=1)
        self.strength = strength

    def forward(self, x: Tensor, t: Tensor | float, context: Tensor | None = None) -> Tensor:
        return -self.strength * torch.sin(x)

    def to_config(self) -> dict[str, Any]:
        return {}


def test_a_block_that_folds_space_is_caught():
    folds, coarse = (
        named(Flow(StandardNormal(1), [NeuralODEBlock(Waves(a), gamma=1.0, steps=1)])) for a in (5.0, 1.0)
    )
    claim = folds[(inversion._LIPSCHITZ, 1)]
    assert claim.verdict == "fails"
    assert "both signs" in claim.assumption
    claim = coarse[(inversion._LIPSCHITZ, 1)]
    assert (claim.verdict, claim.kind, claim.bound) == ("undecided", "upper-under-assumption", math.inf)
    assert claim.measured > 1


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
    bound = velocity_lipschitz(field, steps=1)
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
    assert velocity_lipschitz(field) == pytest.approx(1.5 * constant, rel=1e-6)
    origin, along = torch.zeros(1, 1).double(), torch.ones(1, 1, 1).double()
    assert abs(float(field.with_tangents(origin, 0.3, along)[1])) == pytest.approx(1.5 * constant, rel=1e-6)


def test_two_layers_multiply():
    field = MLPVelocity(dim=1, width=1, depth=2, n_frequencies=0).double()
    with torch.no_grad():
        for layer, weight in zip((*field.hidden, field.out), (2.0, -3.0, 0.5), strict=True):
            layer.weight.zero_()
            layer.weight[0, 0] = weight
    assert velocity_lipschitz(field) == pytest.approx(3.0 * SILU_SLOPE**2, rel=1e-6)


def test_layers_that_cancel_are_seen_to():
    """A_2 A_1 = 0: only the part of SiLU that is not z/2 remains, 0.59984 instead of 1.09984 for a layer."""
    field = MLPVelocity(dim=1, width=2, depth=1, n_frequencies=0).double()
    with torch.no_grad():
        field.hidden[0].weight.zero_()
        field.hidden[0].weight[:, 0] = torch.tensor([1.0, -1.0])
        field.out.weight.copy_(torch.tensor([[1.0, 1.0]]))
    assert velocity_lipschitz(field) == pytest.approx((SILU_SLOPE - 0.5) * 2, rel=1e-6)


def test_the_slope_of_the_taper_counts_where_the_field_has_grown():
    """F(x) = x up to a constant that makes F(0) = 0: in the shell w' F is what is steepest."""
    field = scalar(1.0, 1.0)
    field.hidden[0].bias.fill_(30.0)
    field.out.bias.copy_(-field.raw(torch.zeros(1, 1).double(), 0.0)[0])
    field.radius.fill_(5.0)
    x = torch.linspace(5, 10, 2001, dtype=torch.float64)[:, None]
    steepest = float(field.with_tangents(x, 0.0, torch.ones(1, 2001, 1).double())[1].abs().max())
    assert 2.5 < steepest <= velocity_lipschitz(field) < 2 * steepest


def test_taper_costs_a_bounded_factor():
    plain = velocity_lipschitz(make_velocity(3, seed=4))
    tapered = velocity_lipschitz(make_velocity(3, seed=4, radius=1e6))
    assert plain <= tapered <= 4 * plain
    assert velocity_lipschitz(Waves(1.0)) == math.inf


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_the_discrete_inverse_stretches_no_more_than_its_bound(seed, steps):
    dim = 2
    radius = 2.0 if seed else math.inf
    field = make_velocity(dim, seed=seed, strength=0.01, radius=radius, frequency_scale=1.0)
    field.amplitude.mul_(0.5 * steps / velocity_lipschitz(field, steps=steps))  # hK = 1/2
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
    constant = velocity_lipschitz(field)
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
    class Other(Shifted):
        pass

    assert Other(dim=2).inverse_lipschitz().proven  # an affine block is one by its matrix

    class Unknown(Block):
        push = push_with_log_det = push_with_jacobian = push_with_trace = lambda self: None
        invert = to_config = push

    constant = Unknown(dim=2, gamma=1.0).inverse_lipschitz()
    assert (constant.bound, constant.proven) == (math.inf, False)
    singular = AffineBlock(dim=2, matrix=torch.zeros(2, 2)).inverse_lipschitz()
    assert (singular.bound, singular.proven) == (math.inf, False)


# ── edges ──


def test_context_comes_from_the_held_out_rows():
    block = make_block("neural_ode_context", dim=2)
    flow = Flow(StandardNormal(2), [block])
    rows = Particles(points(40, 2), context_for(block, 40, torch.float64))
    assert named(flow, rows)[(inversion._ERROR, 1)].verdict == "holds"
    (claim,) = inversion.claims(Evidence(flow, None))
    assert claim.verdict == "undecided"
    # at the origin the field is as large as the contexts make it, which a taper's slope multiplies
    block.velocity.radius.fill_(1.0)
    near, far = (velocity_lipschitz(block.velocity, context=k * rows.context) for k in (1.0, 100.0))
    assert math.isinf(velocity_lipschitz(block.velocity))
    assert near < far < math.inf


def test_no_blocks_and_many_columns_are_no_error(monkeypatch):
    (claim,) = inversion.claims(Evidence(Flow(StandardNormal(2)), None))
    assert (claim.verdict, claim.measured) == ("holds", 0.0)
    monkeypatch.setattr(inversion, "_LARGEST_DIM", 1)
    found = named(Flow(StandardNormal(2), [affine([0.5, 2.0])]))
    assert found[(inversion._LIPSCHITZ, 1)].measured is None
    assert by_samples(found).verdict == "undecided"
    assert by_weights(found).verdict == "holds"


def test_the_same_seed_gives_the_same_claims():
    flow = Flow(StandardNormal(2), [gentle(2)])
    assert named(flow, seed=1) == named(flow, seed=1)
    assert named(flow, seed=1) != named(flow, seed=2)


def test_claims_name_their_blocks_in_order():
    found = inversion.claims(Evidence(Flow(StandardNormal(2), [gentle(2), affine([1.0, 2.0])]), None))
    assert [claim.block for claim in found] == [1, 1, 2, 2, None, None, None]
    assert all(claim.remedy for claim in found if claim.verdict != "holds")
    assert all(dataclasses.asdict(claim)["source"] for claim in found)

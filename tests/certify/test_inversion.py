"""Errors of computed inverses and Lipschitz constants, against affine flows and exact bounds."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from jkoflow.blocks import AffineBlock, Block, Inverse, NeuralODEBlock
from jkoflow.blocks.ode.velocity import VelocityField
from jkoflow.bounds import inversion_w2_by_block
from jkoflow.certify import inversion
from jkoflow.certify.evidence import Evidence
from jkoflow.flow import Flow
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles
from oracles.blocks import DTYPES, context_for, generator, make_block, make_velocity, points


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
    noise = StandardNormal(1).sample(inversion._ROWS[1], evidence.stream("inversion")).float()
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
    near, far = (block.velocity.lipschitz(context=k * rows.context) for k in (1.0, 100.0))
    assert math.isinf(block.velocity.lipschitz())
    assert near < far < math.inf


def test_no_blocks_and_many_columns_are_no_error(monkeypatch):
    (claim,) = inversion.claims(Evidence(Flow(StandardNormal(2)), None))
    assert (claim.verdict, claim.measured) == ("told", 0.0)
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
    assert all(claim.remedy for claim in found if not claim.stands)
    assert all(dataclasses.asdict(claim)["source"] for claim in found)

"""A flow: the composition of its blocks, one discrete map whoever asks, a value once it is made."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from jkoflow.blocks import AffineBlock, Block, Inverse
from jkoflow.blocks.log_det import push_block_with_log_det, push_with_log_det_by
from jkoflow.errors import InputError
from jkoflow.flow import Flow
from jkoflow.flow.likelihood import log_prob
from jkoflow.flow.sampling import sample
from jkoflow.functionals import KL, ProximalObjective
from jkoflow.laws import Gaussian, Law, Rings, StandardNormal
from jkoflow.particles import Particles
from jkoflow.storage.chunks import PUSH_ROWS
from oracles.blocks import BLOCKS, DTYPES, autodiff_log_det, coarse_block, generator, make_block, points

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
# a map with spikes magnifies rounding: its own tests hold its inverse
UNCONDITIONAL = sorted(name for name in BLOCKS if "context" not in name and "autoregressive" not in name)


def make_flow(dtype: torch.dtype = torch.float64, dim: int = 2) -> Flow:
    return Flow(StandardNormal(dim), [make_block(name, dtype, dim) for name in UNCONDITIONAL])


@pytest.mark.parametrize("dtype", DTYPES)
def test_push_is_the_composition_in_order(dtype: torch.dtype) -> None:
    flow, x = make_flow(dtype), points(20, 2, dtype)
    y = x
    for block in flow:
        y = block.push(y)
    assert torch.equal(flow.push(x), y)
    first, second = list(flow)[:2]
    assert not torch.allclose(first.push(second.push(x)), second.push(first.push(x)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip_of_the_whole_map(dtype: torch.dtype) -> None:
    flow, x = make_flow(dtype), points(40, 2, dtype)
    torch.testing.assert_close(flow.pull(flow.push(x)), x, atol=TOLERANCE[dtype], rtol=0)
    inverse = flow.invert(x)
    torch.testing.assert_close(inverse.error, (flow.push(inverse.x) - x).norm(dim=1), atol=1e-12, rtol=1e-5)
    assert float(inverse.error.max()) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_det_is_that_of_the_composition(dtype: torch.dtype) -> None:
    flow, x = make_flow(dtype), points(20, 2, dtype)
    y, log_det = flow.push_with_log_det(x)
    total, at = torch.zeros(20, dtype=torch.float64), x
    for block in flow:
        total, at = total + autodiff_log_det(block, at).double(), block.push(at)
    torch.testing.assert_close(log_det, total, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    torch.testing.assert_close(y, flow.push(x), atol=TOLERANCE[dtype] / 10, rtol=0)
    assert torch.equal(flow.log_det(x), log_det)
    assert log_det.dtype == torch.float64


def test_log_det_of_the_whole_map_at_once() -> None:
    """Reverse-mode differentiation through all blocks together, not block by block."""
    flow, x = make_flow(), points(6, 2)

    def image(row: Tensor) -> Tensor:
        at = row[None]
        for block in flow:
            at = block.push(at)
        return at[0]

    jacobian = torch.stack([torch.func.jacrev(image)(row) for row in x])
    torch.testing.assert_close(flow.log_det(x), torch.linalg.slogdet(jacobian)[1], atol=1e-8, rtol=0)


def discretisations(block: Block, x: Tensor) -> dict[str, Tensor]:
    """Where each of the library's ways to use a block puts x, or what it pulls back onto x."""
    flow = Flow(StandardNormal(2), [block])
    seen: dict[str, Tensor] = {}

    def push(trained: Block, batch: Particles) -> tuple[Tensor, Tensor]:
        y, log_det = push_with_log_det_by("determinant", dim=2, generator=generator())(trained, batch)
        seen["training, determinant"] = y
        return y, log_det

    ProximalObjective(KL(flow.law), 1.0).terms(block, Particles(x), None, push)
    for divergence in ("exact", "hutchinson"):
        by = push_with_log_det_by(divergence, dim=2, generator=generator())
        seen[f"training, {divergence}"] = by(block, Particles(x))[0]
    seen["fold"] = push_block_with_log_det(block, Particles(x))[0]
    seen["particles"] = Particles(x).map(block.push).x
    seen["scoring"] = flow.push_with_log_det(x)[0]
    return seen


def test_one_map() -> None:
    """Training, push, pull, sample and log_prob refer to the same discrete map.

    The block's single Runge-Kutta step is far from two of them, so that any part of the library that
    integrated otherwise would be seen.
    """
    block, x = coarse_block(2), points(64, 2)
    flow = Flow(StandardNormal(2), [block])
    y = flow.push(x)
    assert block.step_doubling_error(x) > 1e-3
    for who, image in discretisations(block, x).items():
        torch.testing.assert_close(image, y, atol=1e-11, rtol=0, msg=lambda m, who=who: f"{who}: {m}")
    torch.testing.assert_close(flow.pull(y), x, atol=1e-8, rtol=0)
    density = -0.5 * y.square().sum(dim=1) - torch.tensor(2 * torch.pi, dtype=torch.float64).log()
    torch.testing.assert_close(log_prob(flow, x), density + autodiff_log_det(block, x), atol=1e-9, rtol=0)
    drawn = sample(flow, 16, seed=3, like=x)
    from_noise = block.push(drawn.x)
    expected = sample(Flow(StandardNormal(2)), 16, seed=3, like=x).x
    torch.testing.assert_close(from_noise, expected, atol=1e-8, rtol=0)


def test_then_leaves_the_flow_as_it_was() -> None:
    flow = make_flow()
    longer = flow.then(make_block("affine", dim=2))
    assert (len(flow), len(longer)) == (len(UNCONDITIONAL), len(UNCONDITIONAL) + 1)
    assert list(longer)[: len(flow)] == list(flow)
    assert list(longer.truncated(len(flow))) == list(flow)
    assert len(flow.truncated(0)) == 0


def test_empty_flow_is_the_base_law() -> None:
    flow, x = Flow(StandardNormal(3)), points(5, 3)
    assert flow.dim == 3
    assert torch.equal(flow.push(x), x)
    assert torch.equal(flow.pull(x), x)
    assert torch.equal(log_prob(flow, x), StandardNormal(3).log_prob(x))


def test_context_reaches_every_block() -> None:
    block = make_block("neural_ode_context", dim=2)
    flow = Flow(StandardNormal(2), [block, block])
    x, context = points(8, 2), points(8, 3, seed=4)
    y = flow.push(x, context)
    assert torch.equal(y, block.push(block.push(x, context), context))
    assert not torch.allclose(y, flow.push(x, -context))
    torch.testing.assert_close(flow.pull(y, context), x, atol=1e-8, rtol=0)
    torch.testing.assert_close(flow.push_with_log_det(x, context)[0], y, atol=1e-12, rtol=0)


def test_parameters_are_frozen_and_state_names_the_blocks() -> None:
    flow = make_flow()
    assert not any(parameter.requires_grad for parameter in flow.parameters())
    assert {name.split(".")[:2][0] for name in flow.state_dict()} == {"blocks"}
    assert {int(name.split(".")[1]) for name in flow.state_dict()} == set(range(len(UNCONDITIONAL)))


def test_many_rows_go_through_in_bounded_chunks() -> None:
    class Counting(type(make_block("affine"))):  # type: ignore[misc]
        sizes: list[int] = []  # noqa: RUF012

        def push_with_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
            self.sizes.append(len(x))
            return super().push_with_log_det(x, context)

    for dim in (2, 100):
        Counting.sizes.clear()
        n = 2 * PUSH_ROWS + 5 if dim == 2 else 1000
        x = points(n, dim, torch.float32)
        y, log_det = push_block_with_log_det(Counting(dim=dim), Particles(x))
        assert torch.equal(y, x)
        assert (len(y), len(log_det)) == (n, n)
        assert sum(Counting.sizes) == n
        assert max(Counting.sizes) * dim * dim <= 2**20


def test_no_rows() -> None:
    flow = make_flow()
    y, log_det = flow.push_with_log_det(torch.zeros(0, 2, dtype=torch.float64))
    assert (y.shape, log_det.shape) == ((0, 2), (0,))


def test_a_row_that_misses_the_tolerance_of_one_block_is_seen_in_the_whole() -> None:
    class Broken(type(make_block("affine"))):  # type: ignore[misc]
        def invert(
            self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None
        ) -> Inverse:
            wrong = y.clone()
            wrong[3] += 0.1
            return Inverse(wrong, torch.zeros(len(y), dtype=y.dtype))

    flow = Flow(StandardNormal(2), [make_block("affine", torch.float32, 2), Broken(dim=2)])
    error = flow.invert(points(6, 2, torch.float32)).error
    assert float(error[3]) > 0.05
    assert float(error[[0, 1, 2, 4, 5]].max()) < 1e-4


# ── the known law at the start ──


LAWS = {
    "normal": StandardNormal(2),
    "rings": Rings(),
    "gaussian": Gaussian(torch.ones(2).double(), 0.5 * torch.eye(2).double()),
}


@pytest.mark.parametrize("law", LAWS.values(), ids=list(LAWS))
def test_a_law_at_the_start_is_pushed(law: Law) -> None:
    """The law of the images by the change of variables from the points that they come from."""
    flow = Flow(law, make_flow(), law_at="start")
    x = points(30, 2)
    y = flow.push(x)
    torch.testing.assert_close(log_prob(flow, y), law.log_prob(x) - flow.log_det(x), atol=1e-6, rtol=1e-6)


def test_density_of_a_pushed_law_is_that_of_the_inverse_flow_with_its_law_at_the_end() -> None:
    """Affine blocks: the inverse of each is one too."""
    matrix = torch.tensor([[0.7, 0.2], [-0.3, 1.6]], dtype=torch.float64)
    offset = torch.tensor([0.3, -0.8], dtype=torch.float64)
    inverse = torch.linalg.inv(matrix)
    there = AffineBlock(dim=2, matrix=matrix, offset=offset)
    back = AffineBlock(dim=2, matrix=inverse, offset=-inverse @ offset)
    at_start = Flow(StandardNormal(2), [there, there], law_at="start")
    at_end = Flow(StandardNormal(2), [back, back])
    x = points(20, 2)
    torch.testing.assert_close(log_prob(at_start, x), log_prob(at_end, x))
    ours, theirs = (sample(flow, 1500, seed=3, like=x) for flow in (at_start, at_end))
    torch.testing.assert_close(ours.x, theirs.x, atol=1e-9, rtol=0)


def test_draws_of_a_pushed_law_are_its_own_draws_pushed() -> None:
    law, like = Rings(), points(1, 2)
    flow = Flow(law, make_flow(), law_at="start")
    drawn = sample(flow, 1500, seed=3, like=like)
    start = sample(Flow(law, law_at="start"), 1500, seed=3, like=like)
    torch.testing.assert_close(drawn.x, flow.push(start.x), atol=1e-12, rtol=0)
    assert bool((drawn.error == 0).all()), "there is nothing to invert"
    assert torch.equal(sample(flow, 100, seed=3, like=like).x, drawn.x[:100])
    # a draw of the law itself: its negative log-density has the entropy for its mean
    nats, entropy = -law.log_prob(start.x), law.entropy(20_000, generator(1))
    error = math.hypot(float(nats.std()) / 1500**0.5, entropy.se)
    assert abs(float(nats.mean()) - entropy.value) < 5 * error


def test_a_density_at_the_start_integrates_to_one() -> None:
    flow = Flow(StandardNormal(1), [make_block("neural_ode", torch.float64, 1)], law_at="start")
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    assert float(log_prob(flow, x).exp().sum() * 24 / 4000) == pytest.approx(1, abs=1e-4)


def test_flow_keeps_where_its_law_is() -> None:
    flow = Flow(StandardNormal(2), law_at="start")
    longer = flow.then(make_block("affine", torch.float64, 2)).then(make_block("mixture", torch.float64, 2))
    assert longer.law_at == longer.truncated(1).law_at == "start"
    assert longer.split_source() is None, "the law before a closing is known where the law at the end is"
    assert Flow(StandardNormal(2), list(longer)).split_source() is not None
    assert make_flow().law_at == "end"


@pytest.mark.parametrize("where", ["middle", "", None])
def test_a_law_is_at_one_end(where: object) -> None:
    with pytest.raises(InputError, match="law_at: expected 'end' or 'start'"):
        Flow(StandardNormal(2), law_at=where)  # type: ignore[arg-type]

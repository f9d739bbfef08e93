"""Laws that every block obeys in every dtype: one map, its inverse, its determinant, its storage."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jkoflow.blocks import AffineBlock, Block, NeuralODEBlock, block_from_config, default_tolerance
from jkoflow.blocks.log_det import DIVERGENCES, push_with_log_det_by
from jkoflow.blocks.ode.integrate import rk4
from jkoflow.blocks.ode.trace import exact_probes, rademacher_probes
from jkoflow.errors import InputError, RunFolderError
from jkoflow.particles import Particles
from jkoflow.storage.tensors import read_safetensors, write_safetensors
from oracles.blocks import BLOCKS, DTYPES, autodiff_log_det, context_for, generator, make_block, points

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}

each_block = pytest.mark.parametrize("name", sorted(BLOCKS))
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
each_dim = pytest.mark.parametrize("dim", [1, 4])


def case(name: str, dtype: torch.dtype, dim: int, n: int = 24) -> tuple[Block, Tensor, Tensor | None]:
    block = make_block(name, dtype, dim)
    return block, points(n, dim, dtype), context_for(block, n, dtype)


def integrated_trace(block: NeuralODEBlock, x: Tensor, context: Tensor | None) -> Tensor:
    """The divergence integrated along the block's own stages, each trace by reverse-mode differentiation."""

    def trace(at: Tensor, t: float) -> Tensor:
        if context is None:
            return (
                torch.func.vmap(torch.func.jacrev(lambda row: block.velocity(row[None], t)[0]))(at)
                .diagonal(dim1=1, dim2=2)
                .sum(dim=1)
            )
        return (
            torch.func.vmap(torch.func.jacrev(lambda row, c: block.velocity(row[None], t, c[None])[0]))(
                at, context
            )
            .diagonal(dim1=1, dim2=2)
            .sum(dim=1)
        )

    def derivative(t: float, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return block.velocity(state[0], t, context), trace(state[0], t)

    return rk4(derivative, (x, x.new_zeros(len(x))), steps=block.steps)[1]


@each_block
@each_dtype
@each_dim
def test_block_is_not_the_identity(name: str, dtype: torch.dtype, dim: int) -> None:
    """Without this the laws below would hold for a block that does nothing."""
    block, x, context = case(name, dtype, dim)
    y, log_det = block.push_with_log_det(x, context)
    assert float((y - x).abs().mean()) > 0.05
    assert float(log_det.abs().mean()) > 0.02


@each_block
@each_dtype
@each_dim
def test_round_trip(name: str, dtype: torch.dtype, dim: int) -> None:
    block, x, context = case(name, dtype, dim)
    y = block.push(x, context)
    torch.testing.assert_close(block.pull(y, context), x, atol=TOLERANCE[dtype], rtol=0)
    inverse = block.invert(x, context)
    again = block.push(inverse.x, context)
    torch.testing.assert_close(again, x, atol=TOLERANCE[dtype], rtol=0)
    torch.testing.assert_close(
        inverse.error, (again - x).norm(dim=1), atol=10 * default_tolerance(dtype), rtol=0
    )
    assert inverse.error.shape == (len(x),)


@each_block
@each_dtype
@each_dim
def test_push_is_the_same_map_whoever_asks(name: str, dtype: torch.dtype, dim: int) -> None:
    """push, push_with_log_det and push_with_trace end at the same points, to rounding."""
    block, x, context = case(name, dtype, dim)
    y = block.push(x, context)
    rounding = 1e-12 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(block.push_with_log_det(x, context)[0], y, atol=rounding, rtol=rounding)
    traced = block.push_with_trace(x, context, exact_probes(x))[0]
    torch.testing.assert_close(traced, y, atol=rounding, rtol=rounding)


@each_block
@each_dtype
@each_dim
def test_log_det_is_that_of_the_discrete_map(name: str, dtype: torch.dtype, dim: int) -> None:
    block, x, context = case(name, dtype, dim)
    log_det = block.push_with_log_det(x, context)[1]
    torch.testing.assert_close(
        log_det, autodiff_log_det(block, x, context), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
    )


@each_block
@each_dtype
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("dim", [2, 5])
def test_every_divergence_sees_what_it_should(
    name: str, dtype: torch.dtype, divergence: str, dim: int
) -> None:
    """Same image for all; the determinant, the exact trace, or what has that trace as its mean."""
    block, x, context = case(name, dtype, dim, n=4)
    batch = Particles(x, context)
    used = divergence if divergence != "auto" else {2: "determinant", 5: "hutchinson"}[dim]
    traced = isinstance(block, NeuralODEBlock)
    if used == "determinant" or not traced:
        expected = autodiff_log_det(block, x, context)
    else:
        assert isinstance(block, NeuralODEBlock)
        expected = integrated_trace(block, x, context)
    repeats = 1500 if used == "hutchinson" else 1
    many = Particles(x.repeat(repeats, 1), None if context is None else context.repeat(repeats, 1))
    push = push_with_log_det_by(divergence, dim=dim, generator=generator(5))
    y, log_det = push(block, many)
    rounding = 1e-12 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(y[:4], block.push(batch.x, batch.context), atol=rounding, rtol=rounding)
    values = log_det.reshape(repeats, 4).double()
    if used == "hutchinson" and traced:
        assert float(values.std(dim=0).max()) > 0.01
        standard_error = values.std(dim=0) / repeats**0.5
        assert torch.all((values.mean(dim=0) - expected).abs() < 4.5 * standard_error + TOLERANCE[dtype])
    else:
        torch.testing.assert_close(
            values.mean(dim=0), expected.double(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
        )


@each_block
@each_dtype
def test_batch_equals_loop(name: str, dtype: torch.dtype) -> None:
    block, x, context = case(name, dtype, 3, n=8)
    y, log_det = block.push_with_log_det(x, context)
    inverse = block.pull(x, context)
    rounding = 1e-10 if dtype == torch.float64 else 5e-5
    for i in range(len(x)):
        row, condition = x[i : i + 1], None if context is None else context[i : i + 1]
        one, one_log_det = block.push_with_log_det(row, condition)
        torch.testing.assert_close(one, y[i : i + 1], atol=rounding, rtol=rounding)
        torch.testing.assert_close(one_log_det, log_det[i : i + 1], atol=rounding, rtol=rounding)
        torch.testing.assert_close(
            block.pull(row, condition), inverse[i : i + 1], atol=rounding, rtol=rounding
        )


@each_block
@each_dtype
def test_save_and_load_is_bit_identical(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    block, x, context = case(name, dtype, 3)
    write_safetensors(tmp_path / "block.safetensors", block.state_dict())
    again = block_from_config(block.to_config()).to(dtype)
    again.load_state_dict(read_safetensors(tmp_path / "block.safetensors"))
    again.requires_grad_(False)
    assert again.to_config() == block.to_config()
    assert again.gamma == block.gamma
    for one, other in zip(
        block.push_with_log_det(x, context), again.push_with_log_det(x, context), strict=True
    ):
        assert torch.equal(one, other)
    assert torch.equal(block.pull(x, context), again.pull(x, context))
    state, state_again = block.state_dict(), again.state_dict()
    assert all(torch.equal(state[key], state_again[key]) for key in state)


@each_block
def test_stored_tensors_are_those_that_the_settings_declare(name: str) -> None:
    """As a model folder is read: settings through JSON, and shapes before any number."""
    block = make_block(name)
    config = json.loads(json.dumps(block.to_config()))
    shapes = {key: tuple(part.shape) for key, part in block.state_dict().items()}
    block_from_config(config, found=shapes).load_state_dict(block.state_dict())
    wrong = next(key for key, shape in shapes.items() if shape)
    for found in ({**shapes, wrong: (*shapes[wrong], 2)}, {**shapes, "more": (1,)}):
        with pytest.raises(RunFolderError, match="tensor"):
            block_from_config(config, found=found)


@each_block
@each_dtype
def test_same_seed_same_result_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    first, second = case(name, dtype, 3), case(name, dtype, 3)
    x, context = first[1], first[2]
    one, other = first[0].push_with_log_det(x, context), second[0].push_with_log_det(x, context)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    assert torch.equal(first[0].pull(x, context), second[0].pull(x, context))
    probes = [rademacher_probes(x, 1, generator(9)) for _ in range(2)]
    assert torch.equal(
        first[0].push_with_trace(x, context, probes[0])[1],
        second[0].push_with_trace(x, context, probes[1])[1],
    )


@each_block
def test_free_step_survives_the_config(name: str) -> None:
    block = make_block(name)
    block.gamma = math.inf
    config = block.to_config()
    assert config["gamma"] is None
    assert block_from_config(config).free


@pytest.mark.parametrize("config", [{"kind": "spline", "gamma": 1.0}, {"gamma": 1.0}])
def test_unknown_block_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(
        RunFolderError,
        match=r"block: expected one of \['affine', 'autoregressive', 'mixture', 'neural_ode'",
    ):
        block_from_config(config)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("change", [{"hue": 1}, {"velocity": {"kind": "mlp", "dim": 2, "hue": 1}}])
def test_unknown_setting_is_refused(name: str, change: dict[str, object]) -> None:
    with pytest.raises(RunFolderError, match=r"(block|velocity) \w+: .*; restore it"):
        block_from_config({**make_block(name).to_config(), **change})


def test_default_tolerance_can_be_met_in_each_dtype() -> None:
    assert default_tolerance(torch.float64) <= 1e-8
    assert torch.finfo(torch.float32).eps < default_tolerance(torch.float32) <= 1e-4


def test_block_without_solver_has_no_doubling_error() -> None:
    assert make_block("affine").step_doubling_error(points(5, 3)) == 0


def test_fewer_than_one_step_is_refused() -> None:
    block = make_block("neural_ode")
    assert isinstance(block, NeuralODEBlock)
    with pytest.raises(InputError, match="steps: expected at least 1"):
        NeuralODEBlock(block.velocity, gamma=1.0, steps=0)


def test_affine_block_starts_as_the_identity() -> None:
    x = points(4, 2, torch.float32)
    y, log_det = AffineBlock(dim=2).push_with_log_det(x)
    assert torch.equal(y, x)
    assert torch.equal(log_det, torch.zeros(4))

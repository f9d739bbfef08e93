"""Sampling: base noise pulled back, the same rows whatever their number, an error for each."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from jkoflow.blocks import NeuralODEBlock
from jkoflow.errors import InputError
from jkoflow.flow import Flow
from jkoflow.flow.sampling import rows_together, sample
from jkoflow.laws import Gaussian, StandardNormal
from jkoflow.runtime import base_noise
from jkoflow.world import ALONE, World
from oracles.blocks import DTYPES, coarse_block, make_block, make_velocity, points
from oracles.worlds import run_together


def make_flow(dtype: torch.dtype = torch.float64) -> Flow:
    return Flow(
        StandardNormal(2),
        [make_block(name, dtype, 2) for name in ("affine", "neural_ode", "neural_ode_steps")],
    )


def like(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.zeros(0, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_rows_begin_with_the_fewer_bit_for_bit(dtype: torch.dtype) -> None:
    flow = make_flow(dtype)
    many = sample(flow, 1500, seed=3, like=like(dtype))
    for n in (1, 10, 1024, 1030):
        few = sample(flow, n, seed=3, like=like(dtype))
        assert few.x.shape == (n, 2)
        assert torch.equal(few.x, many.x[:n])
        assert torch.equal(few.error, many.error[:n])


def test_few_rows_of_many_columns_are_the_first_of_more_and_pull_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """300 columns: 64 rows are pulled together, and 70 rows need two such parts, not 1,024 rows."""
    block = make_block("autoregressive", torch.float32, 300)
    flow = Flow(StandardNormal(300), [make_block("affine", torch.float32, 300), block])
    pulled = list[int]()
    invert = type(flow).invert

    def counted(self: Flow, rows: torch.Tensor, *given: object, **options: object) -> object:
        pulled.append(len(rows))
        return invert(self, rows, *given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Flow, "invert", counted)
    many = sample(flow, 70, seed=3, like=like(torch.float32)).x
    assert pulled == [64, 64]
    assert torch.equal(sample(flow, 5, seed=3, like=like(torch.float32)).x, many[:5])
    assert [rows_together(dim) for dim in (2, 32, 33, 300, 10_000)] == [1024, 1024, 512, 64, 64]


def test_rows_with_context_have_the_prefix_property_too() -> None:
    flow = Flow(StandardNormal(2), [make_block("neural_ode_context", dim=2)])
    context = points(1500, 3)
    many = sample(flow, 1500, seed=3, like=like(), context=context)
    few = sample(flow, 10, seed=3, like=like(), context=context[:10])
    assert torch.equal(few.x, many.x[:10])
    assert not torch.allclose(few.x, sample(flow, 10, seed=3, like=like(), context=-context[:10]).x)


def test_samples_are_base_noise_pulled_back() -> None:
    flow = make_flow()
    drawn = sample(flow, 1100, seed=5, like=like())
    torch.testing.assert_close(flow.push(drawn.x), base_noise(5, 1100, 2), atol=1e-8, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_before_a_last_block_in_closed_form_are_drawn(dtype: torch.dtype) -> None:
    """They have the law of pulled rows, the prefix property, and the error of what pulled them."""
    flow = Flow(StandardNormal(2), [make_block(name, dtype, 2) for name in ("neural_ode", "mixture")])
    drawn = sample(flow, 6000, seed=5, like=like(dtype))
    assert drawn.x.dtype == dtype
    assert min(stats.kstest(column.numpy(), "norm").pvalue for column in flow.push(drawn.x).double().T) > 0.01
    few = sample(flow, 10, seed=5, like=like(dtype))
    assert torch.equal(few.x, drawn.x[:10])
    network, mixture = flow
    source = mixture.source(flow.law)
    start = source.draw(base_noise(5, 10, 2)).to(dtype)
    torch.testing.assert_close(few.error, (network.push(few.x) - start).norm(dim=1), atol=2e-6, rtol=0)
    assert float(drawn.error.max()) <= (1e-8 if dtype == torch.float64 else 1e-4)


def test_rows_drawn_in_closed_form_follow_their_context() -> None:
    flow = Flow(StandardNormal(2), [make_block("mixture_context", dim=2)])
    context = points(3000, 3)
    drawn = sample(flow, 3000, seed=5, like=like(), context=context)
    latent = flow.push(drawn.x, context)
    assert min(stats.kstest(column.numpy(), "norm").pvalue for column in latent.T) > 0.01
    dependence = torch.corrcoef(torch.cat([context, latent], dim=1).T)[:3, 3:]
    assert float(dependence.abs().max()) < 0.07
    assert not bool(drawn.error.any())


def test_with_the_law_at_the_start_its_draws_are_pushed() -> None:
    flow = Flow(StandardNormal(2), [make_block("neural_ode", dim=2)], law_at="start")
    drawn = sample(flow, 1500, seed=5, like=like())
    torch.testing.assert_close(drawn.x, flow.push(base_noise(5, 1500, 2)))
    assert torch.equal(sample(flow, 10, seed=5, like=like()).x, drawn.x[:10])
    assert not bool(drawn.error.any())


def test_another_law_at_the_end_is_drawn_by_its_own_sampler() -> None:
    law = Gaussian([1.0, -2.0], [[2.0, 0.5], [0.5, 1.0]])
    flow = Flow(law, [make_block("affine", dim=2)])
    drawn = sample(flow, 4000, seed=5, like=like())
    pushed = flow.push(drawn.x)
    torch.testing.assert_close(pushed.mean(dim=0), law.mean, atol=0.1, rtol=0)
    torch.testing.assert_close(pushed.T.cov(), law.covariance, atol=0.15, rtol=0)
    assert torch.equal(sample(flow, 10, seed=5, like=like()).x, drawn.x[:10])


@pytest.mark.parametrize("dtype", DTYPES)
def test_error_of_each_row_is_its_round_trip(dtype: torch.dtype) -> None:
    flow = make_flow(dtype)
    drawn = sample(flow, 30, seed=5, like=like(dtype))
    measured = (flow.push(drawn.x) - base_noise(5, 30, 2).to(dtype)).norm(dim=1)
    torch.testing.assert_close(drawn.error, measured, atol=2e-6, rtol=0)
    assert float(drawn.error.max()) <= (1e-8 if dtype == torch.float64 else 1e-4)


def test_row_that_misses_the_tolerance_is_reported() -> None:
    """A field that folds the plane: some noise has no preimage; those rows are there, with large errors."""
    field = make_velocity(2, seed=6, strength=2.0).requires_grad_(False)
    flow = Flow(StandardNormal(2), [NeuralODEBlock(field, gamma=1.0, steps=1)])
    drawn = sample(flow, 300, seed=1, like=like(), tolerance=1e-6)
    missed = drawn.error > 1e-6
    assert 0 < int(missed.sum()) < 300
    measured = (flow.push(drawn.x) - base_noise(1, 300, 2)).norm(dim=1)
    torch.testing.assert_close(drawn.error, measured, atol=1e-9, rtol=1e-6)


def test_tolerance_is_passed_on() -> None:
    flow = Flow(StandardNormal(2), [coarse_block(2)])
    loose, tight = (sample(flow, 50, seed=1, like=like(), tolerance=t).error.max() for t in (1e-2, 1e-9))
    assert float(tight) <= 1e-9 < float(loose) <= 1e-2


def test_same_seed_same_rows_and_another_seed_others() -> None:
    flow = make_flow()
    first = sample(flow, 20, seed=1, like=like()).x
    torch.manual_seed(99)
    assert torch.equal(sample(flow, 20, seed=1, like=like()).x, first)
    assert not torch.equal(sample(flow, 20, seed=2, like=like()).x, first)


def test_dtype_is_the_one_asked_for() -> None:
    assert sample(make_flow(torch.float32), 5, seed=0, like=like(torch.float32)).x.dtype == torch.float32


@pytest.mark.parametrize("n", [0, -3])
def test_no_rows_is_refused(n: int) -> None:
    with pytest.raises(InputError, match=f"n_samples: expected at least 1, got {n}"):
        sample(make_flow(), n, seed=0, like=like())


@pytest.mark.parametrize("n", [4, 6])
def test_context_of_other_length_is_refused(n: int) -> None:
    with pytest.raises(InputError, match=f"context: expected 5 rows, one for each sample, got {n}"):
        sample(make_flow(), 5, seed=0, like=like(), context=torch.zeros(n, 1))


@pytest.mark.parametrize("blocks", [("neural_ode",), ("neural_ode", "mixture"), ()])
@pytest.mark.parametrize("n_rows", [1, 1024, 2500])
def test_any_number_of_processes_draws_the_same_rows(blocks: tuple[str, ...], n_rows: int) -> None:
    flow = Flow(StandardNormal(2), [make_block(name, torch.float32, 2) for name in blocks])

    def drawn(world: World) -> torch.Tensor:
        found = sample(flow, n_rows, seed=4, like=like(torch.float32), world=world)
        return torch.cat([found.x, found.error[:, None]], dim=1)

    alone = drawn(ALONE)
    assert all(torch.equal(found, alone) for size in (2, 4) for found in run_together(size, drawn))

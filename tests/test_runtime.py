"""Sources of randomness by name, and where numbers are computed."""

from __future__ import annotations

import itertools

import pytest
import torch

from jkoflow.errors import InputError
from jkoflow.runtime import (
    BASE_NOISE_ROWS,
    Runtime,
    base_noise,
    resolve_device,
    resolve_dtype,
    seed_stream,
)


def first_number(*key: object) -> float:
    seed, name, *indices = key
    return float(torch.rand((), generator=seed_stream(seed, name, *indices), dtype=torch.float64))


def test_stream_is_the_same_every_time_and_on_every_machine() -> None:
    """The numbers are part of what a resumed fit relies on, so a change of the derivation must be seen."""
    assert seed_stream(0, "schedule").initial_seed() == 9185946868164336801
    assert first_number(3, "proximal", 0, 1) == first_number(3, "proximal", 0, 1)


def test_streams_of_other_seeds_names_or_indices_differ() -> None:
    keys = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0, "a", 1), (0, "a", 0, 1), (0, "a", 1, 0), (-1, "a")]
    numbers = [first_number(*key) for key in keys]
    assert all(one != other for one, other in itertools.combinations(numbers, 2))


def test_stream_does_not_depend_on_what_others_drew() -> None:
    runtime = Runtime(5)
    alone = torch.randn(4, generator=runtime.stream("rows", 2))
    torch.randn(100, generator=runtime.stream("noise", 2))
    torch.randn(100)
    assert torch.equal(torch.randn(4, generator=runtime.stream("rows", 2)), alone)


@pytest.mark.parametrize("n", [1, 10, BASE_NOISE_ROWS, BASE_NOISE_ROWS + 1, 3000])
def test_longer_noise_begins_with_the_shorter(n: int) -> None:
    longest = base_noise(4, 4000, 3)
    assert base_noise(4, n, 3).shape == (n, 3)
    assert torch.equal(base_noise(4, n, 3), longest[:n])


def test_later_blocks_of_noise_can_be_drawn_alone() -> None:
    assert torch.equal(base_noise(4, 100, 2, first_block=1), base_noise(4, 2000, 2)[1024:1124])


def test_noise_is_standard_normal_and_its_blocks_are_not_copies() -> None:
    noise = base_noise(0, 50_000, 2)
    assert noise.dtype == torch.float64
    assert abs(float(noise.mean())) < 0.015
    assert float(noise.std()) == pytest.approx(1, abs=0.015)
    assert not torch.equal(noise[:1024], noise[1024:2048])


def test_no_rows_of_noise() -> None:
    assert base_noise(0, 0, 3).shape == (0, 3)


def test_device_and_dtype_by_name() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_dtype("float64") == torch.float64
    assert resolve_dtype("float32") == torch.float32


@pytest.mark.parametrize("device", ["gpu", "", "cuda:"])
def test_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(InputError, match=r"^device: "):
        resolve_device(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a torch without CUDA")
def test_missing_cuda_is_refused_with_the_remedy() -> None:
    with pytest.raises(InputError, match="use device='auto'"):
        resolve_device("cuda")


def test_unknown_dtype_is_refused() -> None:
    with pytest.raises(InputError, match=r"dtype: expected one of \['float32', 'float64'\], got 'float16'"):
        resolve_dtype("float16")

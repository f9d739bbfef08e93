"""Sums of exponentials against torch's, where terms differ by far more than a float's range."""

from __future__ import annotations

import math

import pytest
import torch

from jkoflow.blocks.log_sums import log_sum_exp, shares_of_sum
from oracles.blocks import generator

each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def terms(dtype: torch.dtype, scale: float) -> torch.Tensor:
    return scale * torch.randn(50, 12, 3, generator=generator(0), dtype=torch.float64).to(dtype)


@each_dtype
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e6])
def test_sum_and_shares_are_those_of_torch(dtype: torch.dtype, scale: float) -> None:
    a = terms(dtype, scale)
    shares, total = shares_of_sum(a.clone())
    rounding = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(log_sum_exp(a), torch.logsumexp(a, dim=1), atol=rounding, rtol=rounding)
    torch.testing.assert_close(total[:, 0], torch.logsumexp(a, dim=1), atol=rounding, rtol=rounding)
    torch.testing.assert_close(shares, torch.softmax(a, dim=1), atol=rounding, rtol=rounding)


@each_dtype
def test_no_share_is_so_small_that_it_is_no_normal_number(dtype: torch.dtype) -> None:
    shares, _ = shares_of_sum(terms(dtype, 1e6))
    assert float(shares.min()) > torch.finfo(dtype).tiny


def test_sum_of_nothing_is_minus_infinity() -> None:
    a = torch.full((2, 3), -math.inf)
    a[1, 0] = 0.5
    assert log_sum_exp(a).tolist() == [-math.inf, 0.5]


def test_sum_has_the_gradient_of_torch() -> None:
    a = terms(torch.float64, 10.0).requires_grad_()
    ours, theirs = (
        torch.autograd.grad(f(a).sum(), a)[0] for f in (log_sum_exp, lambda b: b.logsumexp(dim=1))
    )
    torch.testing.assert_close(ours, theirs)

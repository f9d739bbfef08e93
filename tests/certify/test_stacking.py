"""Weights of critics and shares of densities, on draws of which the best are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jkoflow.certify.stacking import mixing_shares, stack
from oracles.blocks import generator


def draws(shift: float, seed: int, n: int = 20_000) -> Tensor:
    return torch.randn(n, generator=generator(seed)) + shift


def test_stacking_trusts_what_tells_the_laws_apart() -> None:
    """h_1 is the log-ratio, h_2 noise, h_3 its opposite: weights 1, 0, 0."""
    p, q = draws(1.0, 1), draws(0.0, 2)
    noise = torch.randn(2, len(p), generator=generator(3))
    values = [torch.stack([x - 0.5, e, 0.5 - x], dim=1) for x, e in zip((p, q), noise, strict=True)]
    weights = stack(*values)
    torch.testing.assert_close(weights.float(), torch.tensor([1.0, 0.0, 0.0]), atol=0.07, rtol=0)


def test_shares_are_those_of_the_law_that_the_rows_have() -> None:
    """Three tenths N(4, 1), seven tenths N(0, 1), and a density that no row is of."""
    x = torch.cat([draws(4.0, 1, 3000), draws(0.0, 2, 7000)]).double()
    densities = torch.stack([-((x - m) ** 2) / 2 for m in (0.0, 4.0, -9.0)], dim=1)
    shares = mixing_shares(densities)
    torch.testing.assert_close(shares, torch.tensor([0.7, 0.3, 0.0]).double(), atol=0.01, rtol=0)
    assert float(shares.sum()) == pytest.approx(1)
    torch.testing.assert_close(mixing_shares(densities + 1e4 * x[:, None]), shares)


def test_the_first_density_keeps_a_share_where_another_explains_every_row_better() -> None:
    shares = mixing_shares(torch.tensor([[0.0, 50.0]] * 99))
    assert float(shares[0]) == pytest.approx(0.01)

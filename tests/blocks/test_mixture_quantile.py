"""Quantiles of mixtures on the line: against root finding and closed forms, in both tails, row by row."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import optimize, special

from jkoflow.blocks import mixture_quantile
from jkoflow.blocks.mixture_quantile import conditional_quantiles, quantile_of_shares

WEIGHTS, MEANS, STDS = np.array([0.2, 0.5, 0.3]), np.array([-3.0, 0.5, 4.0]), np.array([0.5, 1.0, 0.01])


def shares(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """u, w and log w of rows t, shapes `(n, 3, 1)`."""
    u = (t[:, None, None] - torch.tensor(MEANS)[:, None]) / torch.tensor(STDS)[:, None]
    w = torch.tensor(WEIGHTS)[:, None].expand_as(u)
    return u, w, w.log()


def quantiles(z: torch.Tensor, means: np.ndarray = MEANS, stds: np.ndarray = STDS) -> torch.Tensor:
    location = torch.tensor(means).expand(len(z), -1)
    log_w = torch.tensor(WEIGHTS).log().expand_as(location)
    return conditional_quantiles(z, location, 1 / torch.tensor(stds), log_w)


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_both_tails_keep_their_digits(side: float) -> None:
    """Of one component the quantile is u itself, whatever the tail probability is."""
    u = side * torch.linspace(0.0, 60.0, 241, dtype=torch.float64)[:, None, None]
    w = torch.ones_like(u)
    torch.testing.assert_close(quantile_of_shares(u, w, w.log())[:, 0], u[:, 0, 0], atol=1e-12, rtol=1e-9)


def test_a_quantile_is_that_of_the_weighted_probabilities() -> None:
    t = torch.linspace(-6, 7, 200, dtype=torch.float64)
    found = quantile_of_shares(*shares(t))[:, 0]
    # the smaller tail, by SciPy
    below = (WEIGHTS * special.ndtr((t[:, None].numpy() - MEANS) / STDS)).sum(axis=1)
    above = (WEIGHTS * special.ndtr((MEANS - t[:, None].numpy()) / STDS)).sum(axis=1)
    expected = np.where(below < above, special.ndtri(below), -special.ndtri(above))
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-12, rtol=1e-12)


def test_conditional_quantiles_are_those_of_root_finding() -> None:
    z = torch.linspace(-5, 5, 61, dtype=torch.float64)

    def gap(t: float, p: float) -> float:
        return float((WEIGHTS * special.ndtr((t - MEANS) / STDS)).sum() - p)

    expected = [optimize.brentq(gap, -20, 20, args=(p,), xtol=1e-14) for p in special.ndtr(z.numpy())]
    some = z.abs() < 4  # beyond, SciPy's probabilities near 1 have lost their digits
    torch.testing.assert_close(quantiles(z)[some], z.new_tensor(expected)[some], atol=1e-10, rtol=0)


@pytest.mark.parametrize("spread", [1e-4, 1e-2, 1.0])
def test_quantiles_come_back_where_modes_are_narrow_and_far_apart(spread: float) -> None:
    """On the way a probability may be hardly a number, and a small step there is no sign of the end."""
    z = torch.linspace(-37, 37, 149, dtype=torch.float64)
    t = quantiles(z, 100 * MEANS, spread * STDS)
    u = ((t[:, None] - torch.tensor(100 * MEANS)) / torch.tensor(spread * STDS))[..., None]
    w = torch.tensor(WEIGHTS)[:, None].expand_as(u)
    again = quantile_of_shares(u, w, w.log())[:, 0]
    # t has the digits of 300, so that z has fewer
    torch.testing.assert_close(again, z, atol=1e-12 / spread, rtol=1e-8)


def test_quantiles_of_many_components_of_all_widths_are_found() -> None:
    """Without a safeguard 6 of these went to and fro between two narrow components for ever."""
    source, count = torch.Generator().manual_seed(0), 20_000
    location = torch.randn(count, 24, generator=source, dtype=torch.float64)
    width = 10 ** -torch.empty_like(location).uniform_(0, 3, generator=source)
    log_w = torch.log_softmax(4 * torch.randn(count, 24, generator=source, dtype=torch.float64), dim=1)
    z = torch.randn(count, generator=source, dtype=torch.float64)
    t = mixture_quantile._solved(mixture_quantile._tail, z, location, 1 / width, log_w)
    back = quantile_of_shares(
        ((t[:, None] - location) / width)[:, :, None], log_w.exp()[:, :, None], log_w[:, :, None]
    )
    torch.testing.assert_close(back[:, 0], z, atol=1e-7, rtol=0)


def test_a_quantile_does_not_depend_on_the_other_rows() -> None:
    z = torch.linspace(-40, 40, 33, dtype=torch.float64)
    one_by_one = torch.cat([quantiles(each[None]) for each in z])
    torch.testing.assert_close(quantiles(z), one_by_one, atol=1e-13, rtol=1e-13)


def test_no_rows_have_no_quantiles() -> None:
    assert quantiles(torch.zeros(0, dtype=torch.float64)).shape == (0,)
    assert math.isfinite(float(quantiles(torch.zeros(1, dtype=torch.float64))))


def test_the_second_derivative_leads_to_the_root_in_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the wrong sign it takes 7 of them here."""
    taken: list[int] = []
    tail = mixture_quantile._tail
    monkeypatch.setattr(mixture_quantile, "_tail", lambda *at: (taken.append(len(at[0])), tail(*at))[1])
    quantiles(torch.linspace(-3, 3, 61, dtype=torch.float64), MEANS / 4, np.array([0.5, 1.0, 0.7]))
    assert len(taken) <= 4

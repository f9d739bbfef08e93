"""Checkerboard, rings and drawings, and how a pen stroke becomes a mixture."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import torch

from jkoflow.errors import InputError
from jkoflow.laws import Checkerboard, GaussianMixture, Rings, make_law
from jkoflow.laws.strokes import Drawing, arc, bend, inside, resample


def test_checkerboard_knows_black_from_white() -> None:
    black = [(1.0, 1.0), (3.9, 3.9), (-1.0, -1.0), (1.0, -3.0), (-4.0, -4.0), (0.0, 0.0)]
    white = [(1.0, -1.0), (-1.0, 1.0), (3.0, 1.0), (5.0, 5.0), (4.0, 4.0), (-5.0, -5.0), (-4.1, -4.1)]
    law = Checkerboard()
    assert law.log_prob(torch.tensor(black)).tolist() == pytest.approx([-math.log(32)] * len(black))
    assert law.log_prob(torch.tensor(white)).tolist() == [-math.inf] * len(white)
    x = law.sample(10_000, torch.Generator().manual_seed(0))
    assert bool(torch.isfinite(law.log_prob(x)).all())
    assert law.entropy(2, torch.Generator()) == (math.log(32), 0.0)


def test_checkerboard_fills_its_eight_squares_evenly() -> None:
    x = Checkerboard().sample(16_000, torch.Generator().manual_seed(0))
    row, column = (x / 2).floor().long().unbind(-1)
    count = torch.bincount(4 * (row + 2) + column + 2, minlength=16)
    assert int((count > 0).sum()) == 8
    assert (
        float(((count[count > 0] - 2000.0) ** 2 / 2000).sum()) < 24.3
    )  # 0.999 point of chi-square, 7 degrees


@pytest.mark.parametrize(("radii", "std"), [((0.75, 1.5, 2.25, 3.0), 0.08), ((0.1, 0.5), 0.4)])
def test_rings_radius_has_the_right_law(radii: tuple[float, ...], std: float) -> None:
    """The density is r-weighted quadrature's; the draws' distances from 0 pass a Kolmogorov-Smirnov test."""

    def unnormalised(r: float, radius: float) -> float:
        return r * math.exp(-((r - radius) ** 2) / (2 * std**2))

    grid = np.linspace(0, max(radii) + 8 * std, 4001)
    shares = []
    for radius in radii:
        density = np.array([unnormalised(r, radius) for r in grid])
        shares.append(density / scipy.integrate.simpson(density, x=grid))
    mixed = np.mean(shares, axis=0)
    law = Rings(radii, std)
    points = torch.as_tensor(np.stack([0.6 * grid, 0.8 * grid], axis=1))
    mine = law.log_prob(points).exp().numpy() * 2 * math.pi * grid
    np.testing.assert_allclose(mine, mixed, atol=1e-6)
    cumulative = scipy.integrate.cumulative_simpson(mixed, x=grid, initial=0)
    distance = law.sample(5000, torch.Generator().manual_seed(0)).norm(dim=-1).numpy()
    test = scipy.stats.kstest(distance, lambda r: np.interp(r, grid, cumulative))
    assert test.pvalue > 0.01


def test_rings_have_a_gradient_at_the_centre() -> None:
    x = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    Rings().log_prob(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(("radii", "std"), [((), 0.1), ((1.0, -1.0), 0.1), ((1.0,), 0.0), ((math.nan,), 1.0)])
def test_rings_refused_by_name(radii: tuple[float, ...], std: float) -> None:
    with pytest.raises(InputError, match="radii, std: expected positive"):
        Rings(radii, std)


ENTROPY = {"rose": 1.76, "tree": 1.61}


@pytest.mark.parametrize("name", ENTROPY)
def test_drawing_is_standardised_and_finely_drawn(name: str) -> None:
    law = make_law(name)
    assert isinstance(law, GaussianMixture)
    assert law.stds is not None
    mean = law.weights @ law.means
    variance = law.weights @ (law.means - mean).square() + law.weights @ law.stds.square()
    assert mean.abs().max() < 1e-12
    assert float(variance.mean()) == pytest.approx(1, abs=1e-12)
    assert law.means.abs().max() < 4
    assert 0.015 < float(law.stds.min()) < 0.03
    entropy = law.entropy(4000, torch.Generator().manual_seed(0))
    assert entropy.value == pytest.approx(ENTROPY[name], abs=0.05)


def test_rose_stands_on_a_stem_below_its_bloom() -> None:
    x = make_law("rose").sample(20_000, torch.Generator().manual_seed(0))
    bloom, foot = x[x[:, 1] > 0], x[x[:, 1] < -2.5]
    assert len(bloom) > 10_000
    assert float(bloom[:, 0].std()) > 5 * float(foot[:, 0].std())


def test_tree_stands_on_a_trunk_below_its_crown() -> None:
    x = make_law("tree").sample(20_000, torch.Generator().manual_seed(0))
    crown, trunk = x[x[:, 1] > -1], x[(x[:, 1] > -3.2) & (x[:, 1] < -2.3)]
    assert len(crown) > 5 * len(trunk) > 0
    assert float(crown[:, 0].std()) > 5 * float(trunk[:, 0].std())


def test_stroke_is_an_even_line() -> None:
    """Along its middle the density is constant; across it is the pen's Gaussian."""
    drawing = Drawing()
    drawing.stroke(np.array([[-1.0, 0.0], [1.0, 0.0]]), 0.02)
    drawing.stroke(np.array([[0.0, 5.0], [0.0, 6.0]]), 0.02)
    law = GaussianMixture(
        torch.from_numpy(drawing.masses),
        torch.from_numpy(drawing.points),
        stds=torch.from_numpy(drawing.widths),
    )
    along = torch.linspace(-0.5, 0.5, 301, dtype=torch.float64)
    middle = law.log_prob(torch.stack([along, torch.zeros_like(along)], dim=-1))
    assert float(middle.max() - middle.min()) < 2e-3
    across = law.log_prob(torch.tensor([[0.0, 0.0], [0.0, 0.04]], dtype=torch.float64))
    assert float(across[0] - across[1]) == pytest.approx(2.0, abs=2e-3)
    assert drawing.masses.sum() == pytest.approx(3.0)


def test_stroke_tapers_in_width_and_mass() -> None:
    drawing = Drawing()
    drawing.stroke(np.array([[0.0, 0.0], [1.0, 0.0]]), 0.1, 2.0, end_width=0.05)
    assert drawing.widths[0] == 0.1
    assert drawing.widths[-1] == 0.05
    np.testing.assert_allclose(drawing.masses / drawing.widths, drawing.masses[0] / 0.1)
    assert drawing.masses.sum() == pytest.approx(2.0 * 0.75)


def test_covering_erases_only_what_is_inside() -> None:
    drawing = Drawing()
    drawing.stroke(np.array([[-2.0, 0.0], [2.0, 0.0]]), 0.02, 3.0)
    square = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    drawing.cover(square)
    assert np.abs(drawing.points[:, 0]).min() > 1
    assert drawing.masses.sum() == pytest.approx(3.0 * 2, rel=0.02)
    assert len(drawing.points) == len(drawing.masses) == len(drawing.widths)


def test_inside_a_concave_polygon() -> None:
    notched = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [2.0, 1.0], [0.0, 4.0]])
    points = np.array([[1.0, 1.0], [2.0, 0.5], [2.0, 2.0], [3.9, 3.0], [-1.0, 1.0], [5.0, 1.0]])
    assert inside(points, notched).tolist() == [True, True, False, True, False, False]


def test_curves() -> None:
    quarter = arc(np.linspace(0, math.pi / 2, 2000) ** 2 / (math.pi / 2), 2.0)
    even = resample(quarter, 50)
    np.testing.assert_allclose(np.hypot(*even.T), 2.0, atol=1e-5)
    steps = np.hypot(*np.diff(even, axis=0).T)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)
    start, control, end = np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 0.0]])
    curve = bend(start, control, end, n=3)
    np.testing.assert_allclose(curve, [[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]])


def test_checkerboard_of_other_squares() -> None:
    law = Checkerboard(side=0.5, squares=2)
    x = law.sample(1000, torch.Generator().manual_seed(0))
    assert x.abs().max() <= 0.5
    assert law.log_prob(x).exp().tolist() == pytest.approx([2.0] * len(x))


@pytest.mark.parametrize(("side", "squares"), [(0.0, 4), (math.inf, 4), (1.0, 3), (1.0, 0)])
def test_checkerboard_refused_by_name(side: float, squares: int) -> None:
    with pytest.raises(InputError, match=r"^(side|squares): expected"):
        Checkerboard(side, squares)


def test_drawing_follows_its_options() -> None:
    thin, plain = make_law("tree", twig_width=0.008), make_law("tree")
    assert isinstance(thin, GaussianMixture)
    assert isinstance(plain, GaussianMixture)
    assert thin.stds is not None
    assert plain.stds is not None
    assert float(thin.stds.min()) < 0.7 * float(plain.stds.min())
    buds, bloom = make_law("rose", rings=()), make_law("rose")
    assert isinstance(buds, GaussianMixture)
    assert isinstance(bloom, GaussianMixture)
    assert len(buds.weights) < len(bloom.weights)

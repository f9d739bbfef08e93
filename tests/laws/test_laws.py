"""Every law keeps the promises of `Law`; adding a law is adding one line to the registry."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from jkoflow.errors import InputError
from jkoflow.laws import LAWS, Gaussian, GaussianMixture, Law, LogCosh, Rings, make_law


def skewed_covariance(dim: int) -> Tensor:
    factor = torch.eye(dim, dtype=torch.float64) + 0.3 * torch.ones(dim, dim, dtype=torch.float64).tril()
    return factor @ factor.mT


def skewed_gaussian(dim: int) -> Law:
    return Gaussian(torch.arange(dim, dtype=torch.float64) - 0.5, skewed_covariance(dim))


def round_mixture() -> Law:
    return GaussianMixture([1.0, 3.0], [[-1.5, 0.0], [1.0, 0.5]], stds=[0.3, 0.6])


def full_mixture() -> Law:
    covariances = torch.stack([skewed_covariance(2), 0.2 * torch.eye(2, dtype=torch.float64)])
    return GaussianMixture([0.3, 0.7], [[-1.5, 0.0], [1.0, 0.5]], covariances=covariances)


EVERY: dict[str, Callable[[], Law]] = {
    "standard_normal 1": lambda: make_law("standard_normal", dim=1),
    "standard_normal 3": lambda: make_law("standard_normal", dim=3),
    "gaussian 1": lambda: skewed_gaussian(1),
    "gaussian 2": lambda: skewed_gaussian(2),
    "mixture round": round_mixture,
    "mixture full": full_mixture,
    "checkerboard": lambda: make_law("checkerboard"),
    "rings": lambda: make_law("rings"),
    "rings, wide": lambda: Rings((0.2, 1.0), 0.3),
    "rose": lambda: make_law("rose"),
    "tree": lambda: make_law("tree"),
    "log_cosh 1": lambda: make_law("log_cosh", dim=1),
    "log_cosh 2": lambda: make_law("log_cosh", dim=2, curvature=0.7, weight=2.0, width=0.4),
}
IN_THE_PLANE = [name for name, make in EVERY.items() if make().dim == 2]
FLAT = {"checkerboard"}
DRAWN = {"rose", "tree"}


@pytest.fixture(params=EVERY)
def law(request: pytest.FixtureRequest) -> Law:
    return EVERY[request.param]()


def test_registry_is_covered() -> None:
    words = " ".join(EVERY)
    assert [name for name in LAWS if name.removeprefix("gaussian_") not in words] == []


@functools.cache
def density_on_grid(name: str, n: int, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    """Masses of n × n cells around what a law draws, by midpoints; the lower corner; the sides of a cell."""
    law = EVERY[name]()
    x = law.sample(4000, torch.Generator().manual_seed(0))
    low, high = x.min(0).values - margin, x.max(0).values + margin
    if name in FLAT:
        # Cells that the squares' edges do not cut, for which midpoints are exact.
        low, high = (torch.full((2,), end, dtype=torch.float64) for end in (-6.0, 6.0))
    side = (high - low) / n
    steps = torch.arange(n, dtype=torch.float64) + 0.5
    points = torch.cartesian_prod(*(start + width * steps for start, width in zip(low, side, strict=True)))
    return law.log_prob(points).exp().reshape(n, n) * side.prod(), low, side


def test_samples_have_the_promised_form(law: Law) -> None:
    draw = [law.sample(7, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert draw[0].shape == (7, law.dim)
    assert draw[0].dtype == torch.float64
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    assert law.sample(0, torch.Generator()).shape == (0, law.dim)


def test_log_prob_is_minus_potential_minus_log_normaliser(law: Law) -> None:
    x = law.sample(50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(law.log_prob(x), -law.potential(x) - law.log_normaliser)


@pytest.mark.parametrize("shape", [(), (5,), (0,), (2, 3)])
def test_log_prob_keeps_leading_dimensions_and_rows_apart(law: Law, shape: tuple[int, ...]) -> None:
    x = law.sample(math.prod(shape), torch.Generator().manual_seed(0)).reshape(*shape, law.dim)
    value = law.log_prob(x)
    assert value.shape == shape
    by_row = [law.log_prob(row) for row in x.reshape(-1, law.dim)]
    if by_row:
        torch.testing.assert_close(value.reshape(-1), torch.stack(by_row), rtol=1e-12, atol=1e-12)


def test_float32_agrees_with_float64(law: Law) -> None:
    x = law.sample(500, torch.Generator().manual_seed(0)).float()
    single, double = law.log_prob(x), law.log_prob(x.double())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, atol=2e-4, rtol=1e-4)


def test_gradient_is_that_of_the_potential(law: Law) -> None:
    """By central differences, in float64, away from the checkerboard's edges."""
    x = law.sample(20, torch.Generator().manual_seed(0))
    if law == make_law("checkerboard"):
        x = x[(x / 2 - (x / 2).round()).abs().min(-1).values > 1e-3]
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    step = 1e-6
    for axis in range(law.dim):
        shift = step * torch.eye(law.dim, dtype=torch.float64)[axis]
        change = (law.log_prob(x.detach() + shift) - law.log_prob(x.detach() - shift)) / (2 * step)
        torch.testing.assert_close(gradient[:, axis], change, rtol=1e-5, atol=1e-5)


def test_forward_mode_agrees_with_reverse(law: Law) -> None:
    x = law.sample(5, torch.Generator().manual_seed(0))
    tangent = torch.ones_like(x)
    _, change = torch.func.jvp(law.log_prob, (x,), (tangent,))
    gradient = torch.func.grad(lambda y: law.log_prob(y).sum())(x)
    torch.testing.assert_close(change, (gradient * tangent).sum(-1))


@pytest.mark.parametrize("name", IN_THE_PLANE)
def test_density_integrates_to_one(name: str) -> None:
    n, margin, tolerance = (192, 0.15, 1e-4) if name in DRAWN else (384, 3.0, 1e-6)
    mass, _, _ = density_on_grid(name, n, margin)
    assert float(mass.sum()) == pytest.approx(1, abs=tolerance)


@pytest.mark.parametrize("name", ["standard_normal 1", "gaussian 1"])
def test_density_integrates_to_one_on_the_line(name: str) -> None:
    x = torch.linspace(-15, 15, 3001, dtype=torch.float64)
    assert float(EVERY[name]().log_prob(x[:, None]).exp().sum()) * 0.01 == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("name", IN_THE_PLANE)
def test_samples_follow_the_density(name: str) -> None:
    """Chi-square on 12 × 12 cells, with each cell's mass from the density at 16 × 16 points of it."""
    cells, fine, n = 12, 16, 20_000
    mass, low, side = density_on_grid(name, cells * fine, 0.15)
    x = EVERY[name]().sample(n, torch.Generator().manual_seed(3))
    row, column = ((x - low) / (fine * side)).floor().long().clamp(0, cells - 1).unbind(-1)
    observed = torch.bincount(cells * row + column, minlength=cells**2).double()
    expected = n * mass.reshape(cells, fine, cells, fine).sum((1, 3)).reshape(-1)
    # What lies beyond the grid was counted in its border cells; they are joined with the other rare ones.
    border = torch.ones(cells, cells, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    rest = border.reshape(-1) | (expected < 10)
    observed = torch.cat([observed[~rest], observed[rest].sum()[None]])
    expected = torch.cat([expected[~rest], n - expected[~rest].sum()[None]])
    some = expected > 1
    assert float(observed[~some].sum()) <= 20
    chi_square = float(((observed - expected)[some] ** 2 / expected[some]).sum())
    freedom = int(some.sum()) - 1
    assert (chi_square - freedom) / math.sqrt(2 * freedom) < 4


def test_entropy_agrees_with_the_mean_of_log_prob(law: Law) -> None:
    entropy = law.entropy(4000, torch.Generator().manual_seed(0))
    values = -law.log_prob(law.sample(4000, torch.Generator().manual_seed(1)))
    spread = float(values.std()) / 4000**0.5
    assert abs(float(values.mean()) - entropy.value) < 4 * math.hypot(spread, entropy.se) + 1e-12
    assert entropy.se == 0 or entropy.se == pytest.approx(spread, rel=0.2)


def test_lambda_is_a_lower_bound_of_the_hessian(law: Law) -> None:
    if law.lam is None:
        return
    x = law.sample(3, torch.Generator().manual_seed(0))
    hessians = torch.stack([torch.func.hessian(law.potential)(row) for row in x])
    smallest = torch.linalg.eigvalsh(hessians)[:, 0]
    assert bool((smallest >= law.lam - 1e-7).all())
    if not isinstance(law, LogCosh):
        torch.testing.assert_close(smallest, torch.full_like(smallest, law.lam))


def test_law_refuses_points_of_another_form(law: Law) -> None:
    with pytest.raises(InputError, match=rf"\(\.\.\., {law.dim}\), got \(4, 7\)"):
        law.log_prob(torch.zeros(4, 7))
    with pytest.raises(InputError, match="floating-point"):
        law.log_prob(torch.zeros(4, law.dim, dtype=torch.int64))


def test_law_cannot_be_changed(law: Law) -> None:
    with pytest.raises(AttributeError):
        law.dim = 5


def test_law_by_name() -> None:
    assert make_law("standard_normal", dim=3).dim == 3
    mixture = make_law("gaussian_mixture", weights=[1.0], means=[[0.0, 1.0]], stds=[2.0])
    assert isinstance(mixture, GaussianMixture)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("roses", {}, r"expected one of checkerboard, .*, tree, got 'roses'"),
        ("rings", {"width": 1.0}, r"law 'rings': expected radii, std; .*'width'"),
        ("standard_normal", {}, r"expected dim; missing .*'dim'"),
        ("rose", {"petals": 3}, r"expected pen, fine, foreshortening, rings; .*'petals'"),
    ],
)
def test_unknown_name_or_option_is_an_error(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_law(name, **options)

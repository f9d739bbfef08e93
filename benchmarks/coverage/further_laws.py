r"""Further laws of the coverage table, of kinds that its first hundred cases have not.

    heavy       t laws, products of Cauchy and Pareto laws, whose KL to a lighter model may be infinite
    spikes      a narrow component in a broad one, gamma columns with a pole at 0
    grids       counts and rounded columns, with the log-mass of each value
    curves      closed curves drawn with a pen a hundred times finer than the figure
    wide        factor models, mixtures and t laws in 20 to 64 dimensions
    scales      mixtures whose components and columns differ in scale by orders of magnitude
    small       laws of the first families, of which a fit and its certificate get 150 to 500 rows each

The last kind of each family is drawn for the published table alone.

Sources: Burr (1942), Ann. Math. Statist. 13, 215; torus knots, Adams (1994), The Knot Book, section 5.1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from jkoflow.laws import GaussianMixture
from laws import (
    FAMILIES,
    Families,
    Problem,
    draw_problem,
    mixture_problem,
    product_problem,
    rotation,
    student_problem,
)

__all__ = ["FURTHER_FAMILIES"]

Reals = npt.NDArray[np.float64]
_CURVE_POINTS = 1500


# ── heavy tails ──


def _heavy_student(rng: np.random.Generator) -> Problem:
    dim, infinite = int(rng.integers(1, 6)), rng.random() < 0.5
    freedom = float(rng.uniform(1.1, 1.7) if infinite else rng.uniform(3.0, 5.0))
    return student_problem("heavy student", dim, freedom, rotation(dim, rng) * rng.uniform(0.3, 1.2, dim))


def _cauchy(rng: np.random.Generator) -> Problem:
    dim = int(rng.integers(1, 5))
    turn = rotation(dim, rng) * rng.uniform(0.3, 1.2, dim)
    return product_problem("cauchy", dim, stats.cauchy(), turn, tail_index=1.0)


def _pareto(rng: np.random.Generator) -> Problem:
    dim, index = int(rng.integers(1, 5)), float(rng.choice([rng.uniform(1.1, 1.6), rng.uniform(3.0, 5.0)]))
    turn = np.diag(rng.uniform(0.3, 1.2, dim))
    return product_problem("pareto", dim, stats.pareto(index), turn, tail_index=index)


def _burr(rng: np.random.Generator) -> Problem:
    dim, index = int(rng.integers(1, 5)), float(rng.choice([rng.uniform(1.1, 1.6), rng.uniform(3.0, 5.0)]))
    shape = float(rng.uniform(1.5, 3.0))
    law = stats.burr12(shape, index / shape)  # its tail index is the product of the two
    return product_problem("burr", dim, law, np.diag(rng.uniform(0.3, 1.2, dim)), tail_index=index)


# ── spikes ──


def _spike(rng: np.random.Generator) -> Problem:
    dim, share = int(rng.integers(1, 5)), float(rng.uniform(0.05, 0.3))
    width = float(10 ** rng.uniform(-3, -1.5))
    means = torch.as_tensor(np.stack([np.zeros(dim), rng.uniform(-1, 1, dim)]))
    stds = torch.as_tensor([1.0, width], dtype=torch.float64)
    return mixture_problem("spike", GaussianMixture([1 - share, share], means, stds=stds))


def _pole(rng: np.random.Generator) -> Problem:
    dim, shape = int(rng.integers(1, 5)), float(rng.uniform(0.3, 0.8))
    return product_problem("pole", dim, stats.gamma(shape), np.diag(rng.uniform(0.3, 3.0, dim)))


def _two_poles(rng: np.random.Generator) -> Problem:
    dim = int(rng.integers(1, 4))
    law = stats.beta(float(rng.uniform(0.4, 0.8)), float(rng.uniform(0.4, 0.8)))
    return product_problem("two poles", dim, law, np.diag(rng.uniform(0.3, 3.0, dim)))


# ── grids ──


def _grid_problem(kind: str, columns: list[Any], step: float) -> Problem:
    """Independent columns of values on a grid; `log_prob` is the log-mass of the row."""

    def sample(n: int, seed: int) -> Reals:
        rng = np.random.default_rng(seed)
        return np.stack([column.rvs(size=n, random_state=rng) for column in columns], axis=1) * step

    def log_prob(x: Reals) -> Reals:
        cells = np.rint(x / step)
        return np.asarray(sum(column.logpmf(cells[:, j]) for j, column in enumerate(columns)))

    return Problem(kind, len(columns), sample, log_prob, grid_step=step)


def _counts(rng: np.random.Generator) -> Problem:
    columns = [stats.poisson(rng.uniform(3, 60)) for _ in range(int(rng.integers(2, 7)))]
    return _grid_problem("counts", columns, 1.0)


def _overdispersed(rng: np.random.Generator) -> Problem:
    columns = [
        stats.nbinom(rng.uniform(1.5, 8), rng.uniform(0.05, 0.4)) for _ in range(int(rng.integers(2, 6)))
    ]
    return _grid_problem("overdispersed", columns, 1.0)


def _rounded(rng: np.random.Generator) -> Problem:
    columns = [
        stats.binom(int(rng.integers(30, 200)), rng.uniform(0.2, 0.8)) for _ in range(int(rng.integers(2, 7)))
    ]
    return _grid_problem("rounded", columns, 0.5)


# ── thin curves ──


def _curve(kind: str, points: Reals, rng: np.random.Generator) -> Problem:
    width = float(10 ** rng.uniform(-2.3, -1.5)) * float(np.abs(points).max())
    stds = torch.full((len(points),), width, dtype=torch.float64)
    return mixture_problem(kind, GaussianMixture(torch.ones(len(points)), torch.as_tensor(points), stds=stds))


def _angles() -> Reals:
    return np.linspace(0, 2 * np.pi, _CURVE_POINTS, endpoint=False)


def _lissajous(rng: np.random.Generator) -> Problem:
    angle, dim = _angles(), int(rng.integers(2, 5))
    waves = rng.permutation(np.arange(1, 5))[:dim]
    points = np.stack([np.sin(wave * angle + rng.uniform(0, 6)) for wave in waves], axis=1)
    return _curve("lissajous", points, rng)


def _limacon(rng: np.random.Generator) -> Problem:
    angle = _angles()
    radius = rng.uniform(0.5, 1.5) + np.cos(int(rng.integers(1, 5)) * angle)
    return _curve("limacon", np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), rng)


def _knot(rng: np.random.Generator) -> Problem:
    angle, (p, q) = _angles(), ((2, 3), (3, 2), (2, 5))[int(rng.integers(3))]
    radius = 2 + np.cos(q * angle)
    points = np.stack([radius * np.cos(p * angle), radius * np.sin(p * angle), -np.sin(q * angle)], axis=1)
    return _curve("knot", points, rng)


# ── many columns ──


def _factors(rng: np.random.Generator) -> Problem:
    dim = int(rng.integers(20, 65))
    loadings = rng.normal(size=(dim, int(rng.integers(2, 8)))) / 2
    covariance = loadings @ loadings.T + np.diag(rng.uniform(0.1, 0.6, dim))
    law = GaussianMixture([1.0], torch.zeros(1, dim), covariances=torch.as_tensor(covariance)[None])
    return mixture_problem("factors", law)


def _wide_mixture(rng: np.random.Generator) -> Problem:
    dim, count = int(rng.integers(20, 65)), int(rng.integers(2, 6))
    means = torch.as_tensor(rng.uniform(0.1, 0.4) * rng.normal(size=(count, dim)))
    scales = [rotation(dim, rng) * rng.uniform(0.5, 1.0, dim) for _ in range(count)]
    covariances = torch.as_tensor(np.stack([scale @ scale.T for scale in scales]))
    return mixture_problem(
        "wide mixture", GaussianMixture(rng.uniform(0.3, 1, count), means, covariances=covariances)
    )


def _wide_student(rng: np.random.Generator) -> Problem:
    dim = int(rng.integers(20, 41))
    scale = rotation(dim, rng) * rng.uniform(0.3, 1.2, dim)
    return student_problem("wide student", dim, float(rng.uniform(6, 15)), scale)


def _wide_skewed(rng: np.random.Generator) -> Problem:
    dim = int(rng.integers(20, 41))
    turn = rotation(dim, rng) * rng.uniform(0.5, 1.2, dim)
    return product_problem("wide skewed", dim, stats.gumbel_r(), turn)


# ── mixed scales ──


def _scales(rng: np.random.Generator) -> Problem:
    dim, count = int(rng.integers(2, 7)), int(rng.integers(2, 7))
    sizes = 10 ** rng.uniform(-1.5, 0.5, count)
    means = torch.as_tensor(rng.normal(size=(count, dim)))
    stds = torch.as_tensor(sizes[:, None] * rng.uniform(0.5, 1.5, (count, dim)))
    law = GaussianMixture(rng.uniform(0.3, 1, count), means, covariances=torch.diag_embed(stds**2))
    return mixture_problem("scales", law, np.diag(10 ** rng.uniform(-6, 6, dim)))


def _log_normal(rng: np.random.Generator) -> Problem:
    dim = int(rng.integers(2, 6))
    law = stats.lognorm(float(rng.uniform(0.4, 1.0)))
    return product_problem("log-normal", dim, law, np.diag(10 ** rng.uniform(-3, 3, dim)))


# ── small tables ──


def _small(rng: np.random.Generator) -> Problem:
    family = ("shapes", "mixtures", "tails")[int(rng.integers(3))]
    return draw_problem(FAMILIES[family], rng, published=False)


def _small_logistic(rng: np.random.Generator) -> Problem:
    dim = int(rng.integers(2, 7))
    return product_problem(
        "small logistic", dim, stats.logistic(), rotation(dim, rng) * rng.uniform(0.4, 1.2, dim)
    )


FURTHER_FAMILIES: Families = {
    "heavy": ((_heavy_student, _cauchy, _pareto), (_burr,)),
    "spikes": ((_spike, _pole), (_two_poles,)),
    "grids": ((_counts, _overdispersed), (_rounded,)),
    "curves": ((_lissajous, _limacon), (_knot,)),
    "wide": ((_factors, _wide_mixture, _wide_student), (_wide_skewed,)),
    "scales": ((_scales,), (_log_normal,)),
    "small": ((_small,), (_small_logistic,)),
}
"""Of each family: the kinds to develop on, and those that only the published table has."""

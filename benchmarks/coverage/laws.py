r"""Laws of the coverage table: random ones of three families, each with an exactly known density.

    shapes      rings, checkerboards, curves drawn with a fine pen and lattices of spots, in the plane
    mixtures    of Gaussians with full covariances, in 5 to 20 dimensions
    tails       Gaussians, multivariate t, products of Laplace laws, sinh-arcsinh images of Gaussians

A law is drawn from a generator: another seed, another law. Spirals, webs and skewed t laws are drawn for the
published table alone, so that it has kinds that nothing was developed on.

Sources: sinh-arcsinh, Jones & Pewsey (2009), Biometrika 96, 761; rose curves r = cos(k angle), Grandi (1728).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from jkoflow.laws import Checkerboard, GaussianMixture, Law, Rings

__all__ = [
    "FAMILIES",
    "Draw",
    "Families",
    "Kinds",
    "Problem",
    "draw_problem",
    "mixture_problem",
    "product_problem",
    "rotation",
    "student_problem",
]

Reals = npt.NDArray[np.float64]
_PEN_POINTS = 400


@dataclass(frozen=True)
class Problem:
    """A law to be learned.

    Arguments:
        kind: Its name within the family.
        dim: d.
        sample: `(n, seed)` to rows `(n, d)`.
        log_prob: Rows to nats, shape `(n,)`; of a law on a grid the log-mass of the row.
        tail_index: Moments of this order and above are infinite.
        grid_step: Step of the grid that every column lies on; 0 for a law with a density.
    """

    kind: str
    dim: int
    sample: Callable[[int, int], Reals]
    log_prob: Callable[[Reals], Reals]
    tail_index: float = math.inf
    grid_step: float = 0.0


def draw_problem(family: Kinds, rng: np.random.Generator, *, published: bool) -> Problem:
    """A random law of the family; `published` adds the kinds that are kept for the published table."""
    seen, unseen = family
    kinds = [*seen, *(unseen if published else ())]
    return kinds[int(rng.integers(len(kinds)))](rng)


def mixture_problem(kind: str, law: Law, turn: Reals | None = None) -> Problem:
    """A law of the library, seen after the linear map `turn`."""
    matrix = np.eye(law.dim) if turn is None else turn
    log_det = float(np.linalg.slogdet(matrix)[1])

    def sample(n: int, seed: int) -> Reals:
        rows = law.sample(n, torch.Generator().manual_seed(seed))
        return np.asarray(rows.double().numpy() @ matrix.T)

    def log_prob(x: Reals) -> Reals:
        back = torch.as_tensor(np.linalg.solve(matrix, x.T).T)
        return np.asarray(law.log_prob(back).numpy() - log_det)

    return Problem(kind, law.dim, sample, log_prob)


def rotation(dim: int, rng: np.random.Generator) -> Reals:
    """A random orthogonal matrix, shape `(dim, dim)`."""
    return np.asarray(np.linalg.qr(rng.normal(size=(dim, dim)))[0])


# ── shapes in the plane ──


def _rings(rng: np.random.Generator) -> Problem:
    count = int(rng.integers(1, 5))
    radii = np.cumsum(rng.uniform(0.5, 1.2, count))
    return mixture_problem("rings", Rings(tuple(float(r) for r in radii), float(rng.uniform(0.04, 0.15))))


def _checkerboard(rng: np.random.Generator) -> Problem:
    turn = rotation(2, rng) @ np.diag(rng.uniform(0.6, 1.5, 2))
    return mixture_problem("checkerboard", Checkerboard(), turn)


def _pen(kind: str, curve: Reals, rng: np.random.Generator) -> Problem:
    points = torch.as_tensor(curve)
    stds = torch.full((len(points),), float(rng.uniform(0.03, 0.1)), dtype=torch.float64)
    return mixture_problem(kind, GaussianMixture(torch.ones(len(points)), points, stds=stds))


def _rose(rng: np.random.Generator) -> Problem:
    petals, angle = int(rng.integers(2, 8)), np.linspace(0, 2 * np.pi, _PEN_POINTS, endpoint=False)
    radius = 2.5 * np.cos(petals * angle + rng.uniform(0, 6)) + rng.uniform(0, 1)
    return _pen("rose", np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1), rng)


def _web(rng: np.random.Generator) -> Problem:
    time = np.linspace(0, 2 * np.pi, _PEN_POINTS, endpoint=False)
    a, b = int(rng.integers(2, 5)), int(rng.integers(2, 6))
    return _pen("web", 2 * np.stack([np.sin(a * time + rng.uniform(0, 3)), np.sin(b * time)], 1), rng)


def _spiral(rng: np.random.Generator) -> Problem:
    angle = np.sqrt(np.linspace(0.02, 1, _PEN_POINTS)) * rng.uniform(2, 4) * 2 * np.pi
    radius = 2.5 * angle / angle.max()
    return _pen("spiral", np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1), rng)


def _lattice(rng: np.random.Generator) -> Problem:
    side = int(rng.integers(3, 7))
    axis = np.linspace(-2, 2, side)
    means = torch.as_tensor(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2))
    stds = torch.full((len(means),), float(rng.uniform(0.05, 0.2)), dtype=torch.float64)
    weights = torch.as_tensor(rng.uniform(0.3, 1, len(means)))
    return mixture_problem("lattice", GaussianMixture(weights, means, stds=stds), rotation(2, rng))


# ── mixtures ──


def _mixture(rng: np.random.Generator) -> Problem:
    dim, count = int(rng.integers(5, 21)), int(rng.integers(2, 11))
    means = torch.as_tensor(rng.uniform(0.2, 1.0) * rng.normal(size=(count, dim)))
    scales = [rotation(dim, rng) * rng.uniform(0.4, 1.0, dim) for _ in range(count)]
    covariances = torch.as_tensor(np.stack([scale @ scale.T for scale in scales]))
    weights = torch.as_tensor(rng.uniform(0.2, 1, count))
    return mixture_problem("mixture", GaussianMixture(weights, means, covariances=covariances))


# ── Gaussian and heavy-tailed laws ──


def _gaussian(rng: np.random.Generator) -> Problem:
    dim = int(rng.integers(2, 21))
    scale = rotation(dim, rng) * rng.uniform(0.2, 1.5, dim)
    law = GaussianMixture([1.0], torch.zeros(1, dim), covariances=torch.as_tensor(scale @ scale.T)[None])
    return mixture_problem("gaussian", law)


def _student(rng: np.random.Generator) -> Problem:
    dim, freedom = int(rng.integers(2, 11)), float(rng.uniform(3.5, 10))
    return student_problem("student", dim, freedom, rotation(dim, rng) * rng.uniform(0.3, 1.2, dim))


def student_problem(kind: str, dim: int, freedom: float, scale: Reals) -> Problem:
    """A multivariate t law about 0 of shape matrix `scale scale^T`; its tail index is `freedom`."""
    law = stats.multivariate_t(np.zeros(dim), scale @ scale.T, df=freedom)
    return Problem(
        kind,
        dim,
        lambda n, seed: np.asarray(law.rvs(n, random_state=np.random.default_rng(seed))).reshape(n, dim),
        lambda x: np.asarray(law.logpdf(x)).reshape(len(x)),
        tail_index=freedom,
    )


def product_problem(
    kind: str, dim: int, column: stats.rv_continuous, turn: Reals, *, tail_index: float = math.inf
) -> Problem:
    """Independent columns of one law, seen after the linear map `turn`."""
    log_det = float(np.linalg.slogdet(turn)[1])

    def sample(n: int, seed: int) -> Reals:
        rows = column.rvs(size=(n, dim), random_state=np.random.default_rng(seed))
        return np.asarray(rows @ turn.T)

    def log_prob(x: Reals) -> Reals:
        return np.asarray(column.logpdf(np.linalg.solve(turn, x.T).T).sum(axis=1) - log_det)

    return Problem(kind, dim, sample, log_prob, tail_index)


def _laplace(rng: np.random.Generator) -> Problem:
    dim = int(rng.integers(2, 13))
    turn = rotation(dim, rng) * rng.uniform(0.3, 1.2, dim)
    return product_problem("laplace", dim, stats.laplace(), turn)


def _skewed_student(rng: np.random.Generator) -> Problem:
    dim = int(rng.integers(2, 8))
    turn = rotation(dim, rng) * rng.uniform(0.3, 1.2, dim)
    column = stats.jf_skew_t(float(rng.uniform(2.5, 5)), float(rng.uniform(5, 12)))
    return product_problem("skewed student", dim, column, turn)


def _sinh_arcsinh(rng: np.random.Generator) -> Problem:
    dim = int(rng.integers(2, 11))
    skew, tail = rng.uniform(-0.5, 0.5, dim), rng.uniform(0.6, 1.2, dim)
    factor = rotation(dim, rng) * rng.uniform(0.4, 1.2, dim)
    log_det = float(np.linalg.slogdet(factor)[1])

    def sample(n: int, seed: int) -> Reals:
        normal = np.random.default_rng(seed).normal(size=(n, dim)) @ factor.T
        return np.asarray(np.sinh((np.arcsinh(normal) + skew) / tail))

    def log_prob(x: Reals) -> Reals:
        inner = tail * np.arcsinh(x) - skew
        normal = np.linalg.solve(factor, np.sinh(inner).T).T
        slope = np.log(tail) + np.log(np.cosh(inner)) - 0.5 * np.log1p(x**2)
        gaussian = -0.5 * (normal**2).sum(axis=1) - 0.5 * dim * math.log(2 * math.pi) - log_det
        return np.asarray(gaussian + slope.sum(axis=1))

    return Problem("sinh-arcsinh", dim, sample, log_prob)


Draw = Callable[[np.random.Generator], Problem]
Kinds = tuple[tuple[Draw, ...], tuple[Draw, ...]]
Families = dict[str, Kinds]

FAMILIES: Families = {
    "shapes": ((_rings, _checkerboard, _rose, _lattice), (_spiral, _web)),
    "mixtures": ((_mixture,), ()),
    "tails": ((_gaussian, _student, _laplace, _sinh_arcsinh), (_skewed_student,)),
}
"""Of each family: the kinds to develop on, and those that only the published table has."""

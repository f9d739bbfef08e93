r"""The residual from samples alone: no score, no density, by a maximum over vector fields.

    ‖xi'‖² = max_phi 2 <xi', phi> - ‖phi‖²,      <xi', phi> = E[g·phi - ∇·phi],   g = ∇V + (y - x)/gamma

(by parts, <∇log p_n, phi> = -E[∇·phi]). With phi = Σ_k f_k c_k, f the constant, the whitened coordinates and
random Fourier features of them at several scales, the maximum is a linear system, A C = B,

    A = E[f f^T],     B = E[f g^T - ∇f],     value of C on other rows:  2 tr(C^T B) - tr(C^T A C),

and the divergence is exact in any dimension. C comes from one half of the rows, where how many scales and how
much ridge were also chosen, the value from the other half, and then the other way round. So what is read is
below ‖xi'‖² in expectation, for every choice of features: it can show that Assumption 1 fails at a given eps,
never that it holds, and in an upper bound it is a plug-in.

Sources: theory, "eps without a score"; Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (29)-(30). The
integration by parts is that of score matching (Hyvärinen 2005, J. Mach. Learn. Res. 6, 695); the features are
of Rahimi & Recht (2007).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jkoflow.errors import InputError
from jkoflow.first_order.pairs import Norm, StepPairs

__all__ = ["FieldSearch", "variational_norm"]


@dataclass(frozen=True)
class FieldSearch:
    """Which vector fields phi the maximum runs over, and how one of them is chosen.

    Arguments:
        scales: Standard deviations of a feature's phase over the whitened rows, coarse to fine; with none of
            them phi is affine.
        frequencies: How many directions w are drawn for each scale; each gives a cosine and a sine.
        ridges: Candidates for what is added to the diagonal of A, whose entries are near 1.
        folds: Parts of the fitted half that are left out in turn when scales and ridge are chosen.
        spread_floor: Least variance of a whitened direction, relative to the largest one.
        least_rows: Fewest pairs that are accepted: two halves of 50 are the least worth fitting on.
    """

    scales: tuple[float, ...] = (1.0, 2.0, 4.0)
    frequencies: int = 48
    ridges: tuple[float, ...] = (1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)
    folds: int = 4
    spread_floor: float = 1e-6
    least_rows: int = 100

    @classmethod
    def among(cls, columns: int, *, waves_columns: int = 128) -> FieldSearch:
        """The search for rows of so many columns; of more than `waves_columns` phi is affine.

        An affine phi alone has d (d + 1) coefficients.
        """
        return cls() if columns <= waves_columns else cls(scales=())


@dataclass(frozen=True)
class _Features:
    """f(y, c) = [1, z, h cos Wz, h sin Wz], z = M (y - m, c - m_c) white on the rows that it was made from.

    Every feature changes along one fixed direction: ∇f_k(y) = a_k(y) u_k.

    Arguments:
        mean: m, shape `(1, d + c)`.
        whiten: M, shape `(d + c, d + c)`.
        frequencies: W, shape `(m, d + c)`.
        per_scale: How many of its rows belong to one scale.
        dim: d; columns of context are not differentiated by.
    """

    mean: Tensor
    whiten: Tensor
    frequencies: Tensor
    per_scale: int
    dim: int

    @classmethod
    def of(cls, columns: Tensor, dim: int, search: FieldSearch, source: torch.Generator) -> _Features:
        mean = columns.mean(dim=0, keepdim=True)
        centred = columns - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(columns))
        values = values.clamp_min(search.spread_floor * float(values.max()) + torch.finfo(values.dtype).tiny)
        width, count = columns.shape[1], search.frequencies
        sets = [
            scale / math.sqrt(width) * torch.randn(count, width, generator=source, dtype=torch.float64)
            for scale in search.scales
        ]
        frequencies = torch.cat([*sets, torch.empty(0, width, dtype=torch.float64)]).to(columns)
        return cls(mean, (vectors * values.rsqrt()) @ vectors.T, frequencies, count, dim)

    def sizes(self, n_scales: int) -> list[int]:
        """How many features there are: the constant alone, then with none, one, ... of the scales."""
        first = 1 + len(self.whiten)
        return [1, *(first + 2 * self.per_scale * count for count in range(n_scales + 1))]

    def at(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """f and a at each row, each `(n, K)`."""
        z = (columns - self.mean) @ self.whiten
        phase = z @ self.frequencies.T
        cosine, sine = self.heights * phase.cos(), self.heights * phase.sin()
        one = torch.ones_like(z[:, :1])
        return (
            torch.cat([one, z, *self._by_scale(cosine, sine)], dim=1),
            torch.cat([0 * one, torch.ones_like(z), *self._by_scale(-sine, cosine)], dim=1),
        )

    @property
    def heights(self) -> Tensor:
        """(1 + |w|²)^{-1/2}: the ridge then weighs a wave by the noise of its entry in B, shape `(m,)`."""
        return (1 + self.frequencies.square().sum(dim=1)).rsqrt()

    @property
    def directions(self) -> Tensor:
        """u_k, shape `(K, d)`."""
        linear = self.whiten[:, : self.dim]
        waves = self.frequencies @ linear
        pairs = [part for wave in torch.split(waves, self.per_scale) for part in (wave, wave)]
        return torch.cat([torch.zeros_like(linear[:1]), linear, *pairs])

    def _by_scale(self, cosine: Tensor, sine: Tensor) -> list[Tensor]:
        """Cosines and sines of one scale after the other, so that the first scales are the first columns."""
        both = zip(*(torch.split(waves, self.per_scale, dim=1) for waves in (cosine, sine)), strict=True)
        return [part for pair in both for part in pair]


@dataclass(frozen=True)
class _Rows:
    """Rows with their features.

    Arguments:
        values: f, shape `(n, K)`.
        slopes: a, shape `(n, K)`.
        known: g, shape `(n, d)`.
        directions: u, shape `(K, d)`.
    """

    values: Tensor
    slopes: Tensor
    known: Tensor
    directions: Tensor

    @classmethod
    def of(cls, features: _Features, pairs: StepPairs) -> _Rows:
        return cls(*features.at(_columns(pairs)), pairs.known, features.directions)

    def parts(self, count: int) -> list[_Rows]:
        cut = zip(*(table.chunk(count) for table in (self.values, self.slopes, self.known)), strict=True)
        return [_Rows(values, slopes, known, self.directions) for values, slopes, known in cut]

    def moments(self) -> _Moments:
        n = len(self.values)
        b = self.values.T @ self.known / n - self.slopes.mean(dim=0)[:, None] * self.directions
        return _Moments(self.values.T @ self.values / n, b, n)

    def gains(self, c: Tensor) -> Tensor:
        """2 (g·phi - ∇·phi) - |phi|² of each row, phi of the first features alone, `c` of shape `(k, d)`."""
        size = len(c)
        phi = self.values[:, :size] @ c
        divergence = self.slopes[:, :size] @ (self.directions[:size] * c).sum(dim=1)
        return 2 * ((self.known * phi).sum(dim=1) - divergence) - phi.square().sum(dim=1)


@dataclass(frozen=True)
class _Moments:
    """A and B of some rows, and how many there are."""

    a: Tensor
    b: Tensor
    count: int

    def __add__(self, other: _Moments) -> _Moments:
        total = self.count + other.count
        mine, theirs = self.count / total, other.count / total
        return _Moments(mine * self.a + theirs * other.a, mine * self.b + theirs * other.b, total)

    def solutions(self, size: int, ridges: tuple[float, ...]) -> list[Tensor]:
        """(A + ridge I)^{-1} B of the first `size` features, for each ridge."""
        values, vectors = torch.linalg.eigh(self.a[:size, :size])
        turned = vectors.T @ self.b[:size]
        return [vectors @ (turned / (values.clamp_min(0.0) + ridge)[:, None]) for ridge in ridges]


def variational_norm(
    pairs: StepPairs, *, generator: torch.Generator, search: FieldSearch | None = None
) -> Norm:
    """‖xi'‖² from below, cross-fitted, with the standard error of the held-out values.

    Arguments:
        pairs: Rows before and after the step, that no part of its fit used; in a context they are
            conditioned on it.
        generator: Source of the halves and of the features.
        search: Which fields phi there are; `FieldSearch()` if None.

    Raises:
        InputError: Fewer rows than the search needs.
    """
    search = search or FieldSearch()
    if len(pairs) < search.least_rows:
        raise InputError(
            f"pairs: expected at least {search.least_rows} rows to cut in halves, got {len(pairs)}"
        )
    order = torch.randperm(len(pairs), generator=generator).to(pairs.after.device)
    halves = [pairs.rows(part) for part in order.chunk(2)]
    gains = torch.cat([_gains(halves[fold], halves[1 - fold], search, generator) for fold in (0, 1)])
    return Norm(float(gains.mean()), float(gains.std()) / math.sqrt(len(gains)))


def _gains(fitted: StepPairs, held: StepPairs, search: FieldSearch, source: torch.Generator) -> Tensor:
    """The gains of rows of `held`, phi from those of `fitted`."""
    features = _Features.of(_columns(fitted), fitted.after.shape[1], search, source)
    folds = _Rows.of(features, fitted).parts(search.folds)
    c = _chosen(folds, features.sizes(len(search.scales)), search.ridges)
    return _Rows.of(features, held).gains(c)


def _columns(pairs: StepPairs) -> Tensor:
    return pairs.after if pairs.context is None else torch.cat([pairs.after, pairs.context], dim=1)


def _chosen(folds: list[_Rows], sizes: list[int], ridges: tuple[float, ...]) -> Tensor:
    """C of all folds; its number of features and its ridge are the best on folds left out.

    Best is the mean gain less its standard error, so that a field which a few far rows make much of is not
    chosen. phi = 0 is among the candidates: where nothing is found, nothing is what is read.
    """
    moments = [fold.moments() for fold in folds]
    best, chosen = 0.0, (0, ridges[:1])
    for size in sizes:
        fitted = [_total(moments, without=index).solutions(size, ridges) for index in range(len(folds))]
        for index, ridge in enumerate(ridges):
            gains = torch.cat([fold.gains(c[index]) for fold, c in zip(folds, fitted, strict=True)])
            surely = float(gains.mean() - gains.std() / math.sqrt(len(gains)))
            if surely > best:
                best, chosen = surely, (size, (ridge,))
    return _total(moments).solutions(*chosen)[0]


def _total(moments: list[_Moments], *, without: int | None = None) -> _Moments:
    first, *others = (part for index, part in enumerate(moments) if index != without)
    return sum(others, start=first)

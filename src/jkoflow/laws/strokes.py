"""Line drawings as Gaussian mixtures: a pen stroke is a chain of round components.

A stroke of width s (standard deviation across the line) and ink i (mass per length) becomes components of
standard deviation s every h s along it, each of mass i h s, with h = 1.5 by default: by Poisson's sum, a line
even to a part in 2 exp(-2π²/h²) = 3e-4. A shape drawn later may cover what lies behind it, which is how
petals overlap. The finished drawing is moved and scaled to mean 0 and a variance of 1 per coordinate, on
average over the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from jkoflow.laws.mixture import GaussianMixture

__all__ = ["Drawing", "Points", "arc", "bend", "inside", "resample"]

Points = NDArray[np.float64]
"""Points along a curve, shape `(n, 2)`."""


def resample(curve: Points, n: int) -> Points:
    """n points at equal distances along a curve, ends included."""
    steps = np.hypot(*np.diff(curve, axis=0).T)
    length = np.concatenate([[0.0], np.cumsum(steps)])
    at = np.linspace(0, length[-1], n)
    return np.stack([np.interp(at, length, column) for column in curve.T], axis=1)


def arc(angle: Points, radius: Points | float) -> Points:
    """Points at the given polar coordinates."""
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def bend(start: Points, control: Points, end: Points, n: int = 60) -> Points:
    """A quadratic Bézier curve from `start` to `end`, drawn towards `control`."""
    t = np.linspace(0, 1, n)[:, None]
    return np.asarray((1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end)


def inside(points: Points, polygon: Points) -> NDArray[np.bool_]:
    """Which points lie inside a closed polygon, by the even-odd rule; shape `(n,)`."""
    x, y = points[:, :1], points[:, 1:]
    (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, axis=0).T
    rise = np.where(y1 == y0, 1.0, y1 - y0)
    crosses = ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) / rise * (x1 - x0))
    return np.asarray(crosses.sum(axis=1) % 2 == 1)


@dataclass
class Drawing:
    """A sheet that strokes are put on, from back to front.

    Attributes:
        points: Centres of the components drawn so far, shape `(n, 2)`.
        widths: Their standard deviations, shape `(n,)`.
        masses: Their masses, shape `(n,)`, not yet of sum 1.
        spacing: h, the distance of neighbouring components in units of their standard deviation.
    """

    points: Points = field(default_factory=lambda: np.empty((0, 2)))
    widths: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    masses: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    spacing: float = 1.5

    def stroke(
        self, curve: Points, width: float, ink: float = 1.0, *, end_width: float | None = None
    ) -> None:
        """Draw a curve; the width changes evenly to `end_width`, and the mass per length with it.

        Arguments:
            curve: Points along the stroke, shape `(n, 2)`.
            width: Standard deviation across the line where it starts.
            ink: Mass per length, relative to other strokes, where it starts.
            end_width: Standard deviation where it ends; `width` if None.
        """
        last = width if end_width is None else end_width
        length = float(np.hypot(*np.diff(curve, axis=0).T).sum())
        n = max(2, math.ceil(length / (self.spacing * 0.5 * (width + last))))
        widths = np.linspace(width, last, n)
        self.points = np.concatenate([self.points, resample(curve, n)])
        self.widths = np.concatenate([self.widths, widths])
        self.masses = np.concatenate([self.masses, ink * length / n * widths / width])

    def cover(self, polygon: Points) -> None:
        """Erase what has been drawn inside a closed polygon."""
        keep = ~inside(self.points, polygon)
        self.points, self.widths, self.masses = self.points[keep], self.widths[keep], self.masses[keep]

    def to_mixture(self) -> GaussianMixture:
        """The drawing as a law of mean 0 and mean variance 1."""
        weights = self.masses / self.masses.sum()
        centred = self.points - weights @ self.points
        variance = float(weights @ (0.5 * np.sum(centred**2, axis=1) + self.widths**2))
        scale = 1 / math.sqrt(variance)
        return GaussianMixture(
            torch.from_numpy(weights),
            torch.from_numpy(scale * centred),
            stds=torch.from_numpy(scale * self.widths),
        )

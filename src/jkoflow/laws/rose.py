"""A rose-like density in the plane: a line drawing with overlapping petals, a spiral heart, stem and leaves.

The bloom is seen from the front and slightly above. Petals are drawn from the outermost ring inwards, each
covering what lies behind it; every petal has an outline, a folded rim, and fine hatching from its base. See
`jkoflow.laws.strokes` for how lines become a Gaussian mixture; the density is known exactly.
"""

from __future__ import annotations

import math

import numpy as np

from jkoflow.laws.mixture import GaussianMixture
from jkoflow.laws.strokes import Drawing, Points, arc, bend

__all__ = ["rose"]

_PEN = 0.017
_FINE = 0.013
_TILT = np.array([1.0, 0.86])
"""Foreshortening of the bloom, which is seen from slightly above."""

_RINGS = (
    # petals, distance of the rim, half-angle of a petal, angle of the first petal, ripple
    (5, 1.04, 0.86, 0.30, 0.030),
    (5, 0.82, 0.82, 0.95, 0.030),
    (4, 0.62, 1.00, 0.20, 0.028),
    (4, 0.44, 1.00, 1.00, 0.022),
    (3, 0.29, 1.30, 0.10, 0.015),
)


def rose() -> GaussianMixture:
    """The rose as an exactly known mixture of narrow round Gaussians, mean 0, mean variance 1."""
    drawing = Drawing()
    _draw_stem(drawing)
    _draw_sepals(drawing)
    for n_petals, rim, half_angle, first, ripple in _RINGS:
        for petal in range(n_petals):
            # The golden-ratio sequence varies the petals, and is the same everywhere.
            vary = (petal * 0.618 + rim) % 1.0 - 0.5
            angle = first + 2 * math.pi * petal / n_petals + 0.12 * vary
            _draw_petal(drawing, angle, rim * (1 + 0.08 * vary), half_angle, ripple)
    _draw_heart(drawing)
    return drawing.to_mixture()


def _petal_rim(angle: float, rim: float, half_angle: float, ripple: float, n: int = 160) -> Points:
    """The outline of a petal from base to base: broad, with a soft tip and a rippled edge."""
    u = np.linspace(-1, 1, n)
    breadth = (1 - np.abs(u) ** 5) ** 0.5
    tip = 0.07 * np.exp(-((u / 0.16) ** 2))
    wave = ripple * np.cos(5 * u + 3 * angle)
    return np.asarray(arc(angle + half_angle * u, rim * (breadth * (0.93 + wave) + tip)) * _TILT)


def _draw_petal(drawing: Drawing, angle: float, rim: float, half_angle: float, ripple: float) -> None:
    # Inner petals stand higher, so that the bloom opens towards the eye.
    lift = np.array([0.0, 0.16 * (1 - rim)])
    outline = _petal_rim(angle, rim, half_angle, ripple)
    drawing.cover(outline + lift)
    drawing.stroke(outline + lift, _PEN)
    # The folded rim: a second edge that leaves the outline and returns to it.
    middle = outline[26:-26]
    u = np.linspace(-1, 1, len(middle))[:, None]
    depth = (0.055 + 0.03 * rim) / rim
    fold = middle * (1 - depth * (1 - u**2) * (1 + 0.35 * np.sin(3 * u + 5 * angle)))
    drawing.stroke(fold + lift, _FINE, 0.7)
    # Hatching, from the fold towards the base.
    for index in range(16, len(fold) - 15, 15):
        length = 0.07 + 0.10 * math.sin(2.4 * index + angle) ** 2
        drawing.stroke(np.linspace(fold[index], fold[index] * (1 - length), 8) + lift, _FINE, 0.5)


def _draw_heart(drawing: Drawing) -> None:
    """The rolled centre: a spiral whose turns do not touch."""
    turn = np.linspace(0, 2 * math.pi * 2.2, 400)
    radius = 0.185 * (turn / turn[-1]) ** 0.85
    lift = np.array([0.0, 0.15])
    drawing.cover(arc(np.linspace(0, 2 * math.pi, 80), 0.185) * _TILT + lift)
    drawing.stroke(arc(turn + 0.6, radius) * _TILT + lift, _PEN)


def _draw_stem(drawing: Drawing) -> None:
    left = bend(np.array([-0.045, -0.75]), np.array([0.16, -1.7]), np.array([-0.09, -2.75]))
    right = bend(np.array([0.045, -0.75]), np.array([0.25, -1.7]), np.array([0.01, -2.75]))
    _draw_leaf(drawing, np.array([0.10, -1.95]), 0.62, 1.05)
    _draw_leaf(drawing, np.array([0.08, -1.80]), math.pi - 0.55, 0.85)
    drawing.cover(np.concatenate([left, right[::-1]]))
    drawing.stroke(left, _PEN)
    drawing.stroke(right, _PEN)
    for at, side in ((18, 1.0), (34, -1.0), (50, 1.0)):
        edge = right if side > 0 else left
        tip = edge[at] + np.array([0.10 * side, 0.05])
        drawing.stroke(np.stack([edge[at - 2], tip, edge[at + 2]]), _PEN)


def _draw_leaf(drawing: Drawing, base: Points, angle: float, length: float) -> None:
    """A serrated leaf with a midrib and veins."""
    along = np.array([math.cos(angle), math.sin(angle)])
    across = np.array([-along[1], along[0]])
    u = np.linspace(0, 1, 200)
    half_width = 0.27 * length * np.sin(math.pi * u**0.8) ** 0.9
    teeth = 1 + 0.10 * ((9 * u) % 1.0)
    rib = base + length * u[:, None] * along + 0.06 * length * np.sin(math.pi * u)[:, None] * across
    upper, lower = (rib + side * (half_width * teeth)[:, None] * across for side in (1, -1))
    drawing.cover(np.concatenate([upper, lower[::-1]]))
    for curve in (upper, lower, rib):
        drawing.stroke(curve, _PEN)
    for start in range(20, 150, 26):
        for edge in (upper, lower):
            end = start + 26
            drawing.stroke(np.linspace(rib[start], rib[end] + 0.8 * (edge[end] - rib[end]), 10), _FINE, 0.6)


def _draw_sepals(drawing: Drawing) -> None:
    """Three pointed sepals below the bloom."""
    for lean in (-0.55, 0.5, 0.0):
        half_width = np.array([0.13, 0.0])
        base, tip = np.array([0.35 * lean, -0.72]), np.array([1.05 * lean, -1.12 + 0.10 * abs(lean)])
        left = bend(base - half_width, np.array([0.95 * lean - 0.15, -0.90]), tip)
        right = bend(base + half_width, np.array([0.95 * lean + 0.15, -0.90]), tip)
        drawing.cover(np.concatenate([left, right[::-1]]))
        drawing.stroke(left, _PEN)
        drawing.stroke(right, _PEN)

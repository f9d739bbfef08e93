"""A rose-like density in the plane: a line drawing with overlapping petals, a spiral heart, stem and leaves.

The bloom is seen from the front and slightly above. Petals are drawn from the outermost ring inwards, each
covering what lies behind it; every petal has an outline, a folded rim, and fine hatching from its base. See
`jkoflow.laws.strokes` for how lines become a Gaussian mixture; the density is known exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jkoflow.laws.mixture import GaussianMixture
from jkoflow.laws.strokes import Drawing, Points, arc, bend

__all__ = ["Petals", "five_rings", "rose"]


@dataclass(frozen=True)
class Petals:
    """One ring of petals around the heart.

    Arguments:
        count: How many petals.
        rim: Distance of their rims from the heart, in units of the drawing before it is standardised.
        half_angle: Half the angle that a petal spans, radians.
        first: Angle of the first petal, radians.
        ripple: Height of the waves of a rim, relative to its distance.
    """

    count: int
    rim: float
    half_angle: float
    first: float
    ripple: float


@dataclass(frozen=True)
class _Hand:
    """How the rose is drawn: the two pens, and the bloom's height over its width as seen from above."""

    pen: float
    fine: float
    foreshortening: float

    @property
    def tilt(self) -> Points:
        """What a point of the bloom is multiplied by to be seen from slightly above, shape `(2,)`."""
        return np.array([1.0, self.foreshortening])


def five_rings() -> tuple[Petals, ...]:
    """The petals of the rose, from the outermost ring inwards."""
    return (
        Petals(5, rim=1.04, half_angle=0.86, first=0.30, ripple=0.030),
        Petals(5, rim=0.82, half_angle=0.82, first=0.95, ripple=0.030),
        Petals(4, rim=0.62, half_angle=1.00, first=0.20, ripple=0.028),
        Petals(4, rim=0.44, half_angle=1.00, first=1.00, ripple=0.022),
        Petals(3, rim=0.29, half_angle=1.30, first=0.10, ripple=0.015),
    )


def rose(
    *,
    pen: float = 0.017,
    fine: float = 0.013,
    foreshortening: float = 0.86,
    rings: Sequence[Petals] | None = None,
) -> GaussianMixture:
    """The rose as an exactly known mixture of narrow round Gaussians, mean 0, mean variance 1.

    Arguments:
        pen: Standard deviation across an outline, in units of the drawing before it is standardised.
        fine: The same of folds, veins and hatching.
        foreshortening: Height of the bloom over its width; 1 is seen from the front.
        rings: The petals from the outermost ring inwards; `five_rings()` if None.
    """
    drawing, hand = Drawing(), _Hand(pen, fine, foreshortening)
    _draw_stem(drawing, hand)
    _draw_sepals(drawing, hand)
    for ring in five_rings() if rings is None else rings:
        for petal in range(ring.count):
            # The golden-ratio sequence varies the petals, and is the same everywhere.
            vary = (petal * 0.618 + ring.rim) % 1.0 - 0.5
            angle = ring.first + 2 * math.pi * petal / ring.count + 0.12 * vary
            _draw_petal(drawing, hand, angle, ring.rim * (1 + 0.08 * vary), ring)
    _draw_heart(drawing, hand)
    return drawing.to_mixture()


def _petal_rim(hand: _Hand, angle: float, rim: float, ring: Petals, n: int = 160) -> Points:
    """The outline of a petal from base to base: broad, with a soft tip and a rippled edge."""
    u = np.linspace(-1, 1, n)
    breadth = (1 - np.abs(u) ** 5) ** 0.5
    tip = 0.07 * np.exp(-((u / 0.16) ** 2))
    wave = ring.ripple * np.cos(5 * u + 3 * angle)
    return np.asarray(arc(angle + ring.half_angle * u, rim * (breadth * (0.93 + wave) + tip)) * hand.tilt)


def _draw_petal(drawing: Drawing, hand: _Hand, angle: float, rim: float, ring: Petals) -> None:
    # Inner petals stand higher, so that the bloom opens towards the eye.
    lift = np.array([0.0, 0.16 * (1 - rim)])
    outline = _petal_rim(hand, angle, rim, ring)
    drawing.cover(outline + lift)
    drawing.stroke(outline + lift, hand.pen)
    # The folded rim: a second edge that leaves the outline and returns to it.
    middle = outline[26:-26]
    u = np.linspace(-1, 1, len(middle))[:, None]
    depth = (0.055 + 0.03 * rim) / rim
    fold = middle * (1 - depth * (1 - u**2) * (1 + 0.35 * np.sin(3 * u + 5 * angle)))
    drawing.stroke(fold + lift, hand.fine, 0.7)
    # Hatching, from the fold towards the base.
    for index in range(16, len(fold) - 15, 15):
        length = 0.07 + 0.10 * math.sin(2.4 * index + angle) ** 2
        drawing.stroke(np.linspace(fold[index], fold[index] * (1 - length), 8) + lift, hand.fine, 0.5)


def _draw_heart(drawing: Drawing, hand: _Hand) -> None:
    """The rolled centre: a spiral whose turns do not touch."""
    turn = np.linspace(0, 2 * math.pi * 2.2, 400)
    radius = 0.185 * (turn / turn[-1]) ** 0.85
    lift = np.array([0.0, 0.15])
    drawing.cover(arc(np.linspace(0, 2 * math.pi, 80), 0.185) * hand.tilt + lift)
    drawing.stroke(arc(turn + 0.6, radius) * hand.tilt + lift, hand.pen)


def _draw_stem(drawing: Drawing, hand: _Hand) -> None:
    left = bend(np.array([-0.045, -0.75]), np.array([0.16, -1.7]), np.array([-0.09, -2.75]))
    right = bend(np.array([0.045, -0.75]), np.array([0.25, -1.7]), np.array([0.01, -2.75]))
    _draw_leaf(drawing, hand, np.array([0.10, -1.95]), 0.62, 1.05)
    _draw_leaf(drawing, hand, np.array([0.08, -1.80]), math.pi - 0.55, 0.85)
    drawing.cover(np.concatenate([left, right[::-1]]))
    drawing.stroke(left, hand.pen)
    drawing.stroke(right, hand.pen)
    for at, side in ((18, 1.0), (34, -1.0), (50, 1.0)):
        edge = right if side > 0 else left
        tip = edge[at] + np.array([0.10 * side, 0.05])
        drawing.stroke(np.stack([edge[at - 2], tip, edge[at + 2]]), hand.pen)


def _draw_leaf(drawing: Drawing, hand: _Hand, base: Points, angle: float, length: float) -> None:
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
        drawing.stroke(curve, hand.pen)
    for start in range(20, 150, 26):
        for edge in (upper, lower):
            end = start + 26
            drawing.stroke(
                np.linspace(rib[start], rib[end] + 0.8 * (edge[end] - rib[end]), 10), hand.fine, 0.6
            )


def _draw_sepals(drawing: Drawing, hand: _Hand) -> None:
    """Three pointed sepals below the bloom."""
    for lean in (-0.55, 0.5, 0.0):
        half_width = np.array([0.13, 0.0])
        base, tip = np.array([0.35 * lean, -0.72]), np.array([1.05 * lean, -1.12 + 0.10 * abs(lean)])
        left = bend(base - half_width, np.array([0.95 * lean - 0.15, -0.90]), tip)
        right = bend(base + half_width, np.array([0.95 * lean + 0.15, -0.90]), tip)
        drawing.cover(np.concatenate([left, right[::-1]]))
        drawing.stroke(left, hand.pen)
        drawing.stroke(right, hand.pen)

"""A tree-like density in the plane: a trunk, branches that fork seven times, and leaves on the twigs.

A branch of length l and width s forks into two of about 0.78 l and 0.68 s, turned to either side, down to a
least width; twigs carry leaves. Numbers that vary from branch to branch come from the golden-ratio sequence,
so that the tree is the same everywhere. See `jkoflow.laws.strokes` for how strokes become a Gaussian mixture;
the density is known exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from jkoflow.counts import checked_count
from jkoflow.laws.mixture import GaussianMixture
from jkoflow.laws.strokes import Drawing, Points, bend

__all__ = ["tree"]


@dataclass(frozen=True)
class _Growth:
    """How a tree grows; see `tree`."""

    forks: int
    leafless: int
    trunk_length: float
    trunk_width: float
    twig_width: float


most_forks = 12
"""Forks beyond which nothing is drawn: each doubles the branches."""


def tree(
    *,
    forks: int = 7,
    leafless: int = 4,
    trunk_length: float = 0.80,
    trunk_width: float = 0.062,
    twig_width: float = 0.013,
) -> GaussianMixture:
    """The tree as an exactly known mixture of round Gaussians, mean 0, mean variance 1.

    Lengths and widths are in units of the drawing before it is standardised.

    Arguments:
        forks: How often the trunk and its branches fork, one after the other.
        leafless: Forks after which branches are thin enough to carry leaves.
        trunk_length: Length of the trunk up to its first fork, before it is varied.
        trunk_width: Standard deviation across the trunk at its foot.
        twig_width: Standard deviation that no branch is narrower than.

    Raises:
        InputError: More forks than can be drawn: each doubles the branches.
    """
    forks = checked_count(forks, "forks", least=0, most=most_forks)
    growth = _Growth(forks, leafless, trunk_length, trunk_width, twig_width)
    drawing = Drawing()
    vary = _golden_sequence()
    _draw_roots(drawing)
    _draw_branch(drawing, growth, np.array([0.0, 0.0]), math.pi / 2, 0, vary)
    return drawing.to_mixture()


def _golden_sequence() -> Iterator[float]:
    """Numbers spread evenly over [-1, 1] that never repeat."""
    return (2 * ((index * 0.6180339887498949) % 1.0) - 1 for index in count(1))


def _draw_branch(
    drawing: Drawing, growth: _Growth, start: Points, angle: float, level: int, vary: Iterator[float]
) -> None:
    length = growth.trunk_length * 0.78**level * (1 + 0.18 * next(vary))
    width = max(growth.twig_width, growth.trunk_width * 0.68**level)
    heading = np.array([math.cos(angle), math.sin(angle)])
    side = np.array([-heading[1], heading[0]])
    end = start + length * heading
    curve = bend(start, start + 0.5 * length * heading + 0.08 * length * next(vary) * side, end, n=24)
    drawing.stroke(curve, width, ink=width, end_width=max(growth.twig_width, 0.7 * width))
    if level >= growth.leafless:
        _draw_leaves(drawing, curve, angle, vary)
    if level < growth.forks:
        for turn in (0.42, -0.42):
            # Branches that have leaned over grow back towards the light.
            upright = 0.10 * (math.pi / 2 - angle)
            _draw_branch(drawing, growth, end, angle + turn + 0.20 * next(vary) + upright, level + 1, vary)


def _draw_leaves(drawing: Drawing, twig: Points, angle: float, vary: Iterator[float]) -> None:
    """Two leaves on a twig, one to either side."""
    for at, turn in ((14, 0.9), (-1, -0.9)):
        direction = angle + turn + 0.5 * next(vary)
        tip = 0.095 * (1 + 0.25 * next(vary)) * np.array([math.cos(direction), math.sin(direction)])
        blade = twig[at] + np.array([0.25, 1.0])[:, None] * tip
        drawing.stroke(blade, 0.021, ink=0.026, end_width=0.013)


def _draw_roots(drawing: Drawing) -> None:
    """Roots that spread at the foot of the trunk."""
    for reach, drop in ((-0.42, 0.16), (-0.20, 0.22), (0.18, 0.23), (0.40, 0.15)):
        tip = np.array([reach, -drop])
        drawing.stroke(
            bend(np.array([0.25 * reach, 0.02]), np.array([0.45 * reach, -0.7 * drop]), tip, n=24),
            0.030,
            ink=0.022,
            end_width=0.014,
        )

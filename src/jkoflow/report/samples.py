"""Figures of real rows beside generated ones, on the same axes; and of pushed rows beside the normal law."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from jkoflow.report.drawing import FAINT, GENERATED, INK, MUTED, REAL, as_data_uri, plain_text, tidy
from jkoflow.report.limits import Limits
from jkoflow.report.normality import chi2_quantiles, normal_quantiles, order_band

__all__ = ["draw_chi2", "draw_histograms", "draw_images", "draw_pairs", "draw_qq", "pick_rows"]

Rows = NDArray[np.float64]


def pick_rows(rows: Rows, count: int, *, seed: int = 0) -> Rows:
    """At most `count` rows, without order: a sorted table would show one end of itself."""
    if len(rows) <= count:
        return rows
    return rows[np.sort(np.random.default_rng(seed).choice(len(rows), count, replace=False))]


def _frame(real: NDArray[np.float64]) -> tuple[float, float]:
    """Limits of an axis, from real rows alone: a stray generated row must not shrink the picture."""
    low, high = np.quantile(real, (0.002, 0.998))
    margin = 0.12 * (high - low) or 0.5 * max(abs(high), 1e-300)
    return float(low - margin), float(high + margin)


def draw_histograms(real: Rows, generated: Rows, columns: tuple[str, ...], *, limits: Limits) -> str:
    """Each of the first columns by itself: real rows filled, generated rows as a line."""
    shown = min(len(columns), limits.histograms)
    across = min(shown, 4)
    down = -(-shown // across)

    n_bins = int(np.clip(1.4 * min(len(real), len(generated)) ** 0.5, 12, 48))

    def draw(figure: Figure) -> None:
        grid = figure.subplots(down, across, squeeze=False).ravel()
        for axes in grid[shown:]:
            axes.set_visible(False)
        for column, axes in enumerate(grid[:shown]):
            bins = np.linspace(*_frame(real[:, column]), n_bins + 1)
            for rows, color, filled in ((real, REAL, True), (generated, GENERATED, False)):
                # Density relative to all rows: what falls outside the frame is missing, not spread out.
                height = np.histogram(rows[:, column], bins)[0] / (len(rows) * np.diff(bins))
                if filled:
                    axes.stairs(height, bins, fill=True, color=color, alpha=0.28)
                else:
                    axes.stairs(height, bins, color=color, linewidth=1.5)
            axes.set_title(plain_text(columns[column]))
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.locator_params(axis="x", nbins=5)

    return as_data_uri(draw, width=10, height=1.7 * down)


def _scatter(
    axes: Axes, rows: Rows, color: str, frame: tuple[tuple[float, float], tuple[float, float]]
) -> None:
    few = len(rows) < 400
    axes.scatter(
        rows[:, 0], rows[:, 1], s=10 if few else 5, color=color, alpha=0.55 if few else 0.4, linewidths=0
    )
    axes.set_xlim(frame[0])
    axes.set_ylim(frame[1])
    outside = sum((rows[:, side] < frame[side][0]) | (rows[:, side] > frame[side][1]) for side in (0, 1))
    count = int(np.count_nonzero(outside))
    if count:
        axes.text(
            0.98,
            0.98,
            f"{count} outside",
            transform=axes.transAxes,
            ha="right",
            va="top",
            fontsize=7,
            color=MUTED,
        )
    axes.locator_params(nbins=4)


def draw_pairs(real: Rows, generated: Rows, columns: tuple[str, ...], *, limits: Limits) -> str:
    """Pairs of the first columns: real rows left, as many generated rows right, on the same axes."""
    pairs = list(combinations(range(min(len(columns), limits.pair_columns)), 2))
    across = min(len(pairs), 2)
    down = -(-len(pairs) // across)
    count = min(limits.points, len(real), len(generated))

    def draw(figure: Figure) -> None:
        sides = figure.subplots(down, 2 * across, squeeze=False).reshape(-1, 2)
        for axes in sides[len(pairs) :].ravel():
            axes.set_visible(False)
        for pair, (left, right) in zip(pairs, sides, strict=False):
            frame = (_frame(real[:, pair[0]]), _frame(real[:, pair[1]]))
            _scatter(left, pick_rows(real, count)[:, pair], REAL, frame)
            _scatter(right, pick_rows(generated, count)[:, pair], GENERATED, frame)
            left.set_ylabel(plain_text(columns[pair[1]]))
            left.set_title("real", color=REAL)
            right.set_title("generated", color=GENERATED)
            right.tick_params(labelleft=False)
            for axes in (left, right):
                axes.set_xlabel(plain_text(columns[pair[0]]))

    side = 10 / (2 * across)
    return as_data_uri(draw, width=10, height=down * (side * 0.92 + 0.25), pixels=True)


def draw_images(rows: Rows, shape: tuple[int, int], *, like: Rows, color: str) -> str:
    """A sheet of pictures, one a row; grey levels run over those of the real rows in `like`."""
    across, down = 10, 6
    low, high = np.quantile(like, (0.005, 0.995))
    rows = pick_rows(rows, across * down)
    height, width = shape

    def draw(figure: Figure) -> None:
        gap = max(1, width // 8)
        sheet = np.full((down * (height + gap) + gap, across * (width + gap) + gap), np.nan)
        for number, row in enumerate(rows):
            top = gap + number // across * (height + gap)
            left = gap + number % across * (width + gap)
            sheet[top : top + height, left : left + width] = row.reshape(shape)
        axes = figure.subplots()
        axes.imshow(sheet, cmap="gray_r", vmin=low, vmax=high, interpolation="nearest", aspect="auto")
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set(visible=True, color=color, linewidth=2)

    sheet_width = 4.8
    ratio = (down * height) / (across * width)
    return as_data_uri(draw, width=sheet_width, height=sheet_width * ratio * 1.01, pixels=True)


def draw_qq(z: Rows, *, limits: Limits) -> str:
    """Sorted values of each coordinate of pushed rows against the normal quantiles, with the 95 % band."""
    z = pick_rows(z, limits.points)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        expected = normal_quantiles(len(z))
        axes.fill_between(expected, *order_band(len(z)), color=FAINT, alpha=0.9, lw=0, label="95 % if normal")
        axes.plot(expected, expected, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        ordered = np.sort(z, axis=0)
        opacity = float(np.clip(4 / z.shape[1], 0.15, 0.9))
        axes.plot(expected, ordered, color=REAL, linewidth=1.0, alpha=opacity)
        axes.plot(
            [], [], color=REAL, linewidth=1.2, label="one coordinate" if z.shape[1] > 1 else "the coordinate"
        )
        axes.set(
            xlabel="normal quantile", ylabel="pushed rows, sorted", title="each coordinate against N(0, 1)"
        )
        axes.legend(loc="upper left")
        tidy(axes)

    return as_data_uri(draw, width=4.9, height=3.9, pixels=True)


def draw_chi2(z: Rows, *, limits: Limits) -> str:
    """Sorted |z|² of pushed rows against chi² with d degrees of freedom, with the 95 % band."""
    z = pick_rows(z, limits.points)
    dim = z.shape[1]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        expected = chi2_quantiles(len(z), dim)
        axes.fill_between(
            expected, *order_band(len(z), dim=dim), color=FAINT, alpha=0.9, lw=0, label="95 % if normal"
        )
        axes.plot(expected, expected, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.plot(
            expected, np.sort((z**2).sum(axis=1)), color=INK, ls="", marker="o", ms=2.6, mew=0, alpha=0.7
        )
        axes.set(
            xlabel=rf"$\chi^2$ quantile, {dim} degrees of freedom",
            ylabel=r"$|z|^2$, sorted",
            title=r"$|z|^2$ against $\chi^2$: the shell",
        )
        axes.legend(loc="upper left")
        tidy(axes)

    return as_data_uri(draw, width=4.9, height=3.9)

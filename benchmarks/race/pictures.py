"""The picture of the race: quality against CPU-seconds, one panel a problem."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

sys.path.append(str(Path(__file__).parents[2] / "experiments"))

from publish import COLOURS, STYLE

__all__ = ["draw"]

Point = dict[str, Any]
_BLUE, _ORANGE, _GREEN, _PURPLE, _GOLD, _GREY = COLOURS
_COLOUR = {
    "ours": _BLUE,
    "ours_blocks": "#7aa6dd",
    "ours_jko": "#1b3f73",
    "ours_zuko": "#4fb3bf",
    "ours_log_cosh": "#5c7f99",
    "ours_flow_matching": "#9db8d9",
    "nsf": _ORANGE,
    "nsf_best": "#8a4b08",
    "maf": "#c2405a",
    "maf_best": "#7d1f35",
    "naf": "#e377c2",
    "gmm_validated": "#1f2733",
    "forest": "#2e6b2e",
    "flow_matching": _GREEN,
    "flow_matching_ot": _GOLD,
    "ffjord": _PURPLE,
    "published_jko": _GREY,
}
_LINE = {"gmm30": "--", "kde": ":", "vine": "-."}
_INK = "#1f2733"
_QUANTITY = {"nll": "test NLL, nats", "kl": "KL(truth‖model), nats"}
_HEADROOM = 1.6
_MARGIN = 1.5
_TICKS = [factor * 10.0**k for k in range(-1, 5) for factor in (1, 3)]


def draw(panels: Mapping[str, Sequence[Point]]) -> Figure:
    """Contenders as lines with their standard errors; those without a budget as level lines.

    A value far above the others stands as a triangle at the upper edge of its panel.
    """
    columns = min(len(panels), 3 if len(panels) <= 9 else 4)
    lines = math.ceil(len(panels) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.3 * columns, 2.6 * lines), layout="tight")
        axes = figure.subplots(lines, columns, squeeze=False).ravel()
        for panel, (problem, points) in zip(axes, panels.items(), strict=False):
            _draw_panel(panel, points)
            panel.set(title=problem, ylabel=_QUANTITY[points[0]["quantity"]])
        for panel in axes[len(panels) :]:
            panel.set_visible(False)
        for panel in axes[max(0, len(panels) - columns) : len(panels)]:
            panel.set_xlabel("CPU-seconds of the fit")
        handles: dict[str, Any] = {}
        for panel in axes:
            found, labels = panel.get_legend_handles_labels()
            handles |= dict(zip(labels, found, strict=True))
        names = [name for name in (*_COLOUR, *_LINE) if name in handles]
        figure.legend(
            [handles[name] for name in names],
            names,
            loc="upper center",
            bbox_to_anchor=(0.5, 0.0),
            ncols=min(len(names), 2 * columns),
        )
        return figure


def _draw_panel(axes: Axes, points: Sequence[Point]) -> None:
    low, high = _range(points)
    for name in dict.fromkeys(point["contender"] for point in points):
        mine = [point for point in points if point["contender"] == name]
        if mine[0]["seconds"] is None:
            if mine[0]["value"] <= high:
                axes.axhline(mine[0]["value"], color=_INK, linestyle=_LINE[name], linewidth=1, label=name)
            continue
        seconds, values, errors = (np.array([p[key] for p in mine]) for key in ("seconds", "value", "error"))
        inside = values <= high
        axes.errorbar(
            seconds[inside],
            values[inside],
            2 * errors[inside],
            color=_COLOUR[name],
            marker="o",
            markersize=3.5,
            capsize=2,
            label=name,
            zorder=3 if name == "ours" else 2,
        )
        if not inside.all():
            top = np.full((~inside).sum(), high)
            axes.plot(seconds[~inside], top, "^", color=_COLOUR[name], clip_on=False)
    axes.set(xscale="log", ylim=(low, high))
    axes.xaxis.set_major_locator(FixedLocator(_TICKS))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    spent = [point["seconds"] for point in points if point["seconds"] is not None]
    if spent:
        axes.set_xlim(min(spent) / _MARGIN, max(spent) * _MARGIN)


def _range(points: Sequence[Point]) -> tuple[float, float]:
    """From a little below the best value to as much above as four in five of the values need."""
    values = np.array([point["value"] for point in points])
    best = float(values.min())
    high = best + _HEADROOM * max(float(np.quantile(values, 0.8)) - best, 0.05)
    # the error of a value that is above the panel is not drawn, and may be of any size
    low = min(point["value"] - 2 * point["error"] for point in points if point["value"] <= high)
    needed = float(values.max()) + 0.05 * (high - low)
    high = min(high, needed)
    return low - 0.05 * (high - low), high

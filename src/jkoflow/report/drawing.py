"""One look for all figures, and their way into the page: a data URI, so that the page needs no other file."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jkoflow.global_state import warning_filters
from jkoflow.storage import visible

__all__ = ["ACCENT", "FAINT", "GENERATED", "INK", "MUTED", "REAL", "as_data_uri", "plain_text", "tidy"]

INK, MUTED, FAINT = "#1f2733", "#6b7686", "#d9dee6"
REAL, GENERATED, ACCENT = "#2f4b7c", "#e07a3f", "#2a8c82"


def _style() -> dict[Any, Any]:
    """What matplotlib is told of every figure; sizes in points."""
    return {
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.titlecolor": INK,
        "axes.titlelocation": "left",
        "axes.labelsize": 8.5,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": FAINT,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.formatter.useoffset": False,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "legend.labelcolor": INK,
        "lines.linewidth": 1.6,
        "svg.fonttype": "path",
        "svg.hashsalt": "jkoflow",
    }


@contextmanager
def _styled() -> Iterator[None]:
    with mpl.rc_context(_style()), warning_filters():
        # A column name may be in a script that matplotlib's own font lacks; a box in its place is no failure.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def as_data_uri(draw: Callable[[Figure], None], *, width: float, height: float, pixels: bool = False) -> str:
    """Draw on a figure of `width` × `height` inches and return it as `data:image/...`.

    Arguments:
        draw: Fills the figure.
        width: Inches.
        height: Inches.
        pixels: PNG in place of SVG: smaller where there are thousands of marks.
    """
    buffer = io.BytesIO()
    with _styled():
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        if pixels:
            figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
        else:
            figure.savefig(buffer, format="svg", metadata={"Date": None})
    kind = "png" if pixels else "svg+xml"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def plain_text(name: str, *, longest: int = 22) -> str:
    """A column's name as a label: on one line, not too long, and never read as mathematics."""
    name = visible(" ".join(name.split()))
    name = name if len(name) <= longest else f"{name[: longest - 1]}…"
    return name.replace("$", r"\$")


def tidy(axes: Axes, *, grid: bool = True) -> None:
    """A faint horizontal grid behind the marks."""
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis="y", color=FAINT, linewidth=0.6)

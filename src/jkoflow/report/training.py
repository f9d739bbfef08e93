"""Figures of the fit itself: what each block gained, what it cost, and how far it moved the rows.

loss of block n = E[V(T)] - E[log|det ∇T|] + E|x - T(x)|² / (2 gamma)      theory: eq. 25, in nats
path length     = Σ_n (E|x - T_n(x)|²)^(1/2)  >=  W2(data, noise)          standardised units
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from jkoflow.report.contents import HeldOut
from jkoflow.report.drawing import ACCENT, FAINT, GENERATED, INK, MUTED, REAL, as_data_uri, tidy

__all__ = ["draw_nll", "draw_terms", "draw_transport", "path_length", "series"]

Records = Sequence[Mapping[str, Any]]


def series(records: Records, key: str) -> NDArray[np.float64]:
    """One number of each record, NaN where it has none."""
    values = (record.get(key) for record in records)
    return np.array([np.nan if value is None else float(value) for value in values])


def path_length(records: Records) -> float:
    """Σ (E|x - T(x)|²)^(1/2) over the kept blocks."""
    kept = [record for record in records if record.get("kept", True)]
    return float(np.nansum(np.sqrt(series(kept, "transport"))))


def _number_blocks(axes: Axes, blocks: NDArray[np.float64]) -> None:
    axes.set_xlim(blocks[0] - 0.5, blocks[-1] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    axes.set_xlabel("block")
    tidy(axes)


def _draw_series(axes: Axes, records: Records, values: NDArray[np.float64], color: str) -> None:
    # A block that is no part of the finished flow is hollow.
    blocks = series(records, "block")
    kept = np.array([bool(record.get("kept", True)) for record in records])
    axes.plot(blocks[kept], values[kept], color=color, marker="o", markersize=4.5)
    axes.plot(blocks[~kept], values[~kept], color=color, marker="o", markersize=4.5, ls="", mfc="white")
    _number_blocks(axes, blocks)


def _mark_free(axes: Axes, records: Records) -> None:
    """Write "free" where a block has no transport term, so that a gap is not taken for a missing number."""
    for record in records:
        if record.get("gamma") is None:
            axes.annotate(
                "free",
                (record["block"], 0.03),
                xycoords=("data", "axes fraction"),
                ha="center",
                color=MUTED,
                fontsize=8,
            )


def draw_nll(records: Records, held_out: HeldOut | None) -> str:
    """Validation NLL of the whole flow after each block, with the Gaussian's where there is one."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        in_data_units = np.isfinite(series(records, "held_out_nll_data_nats")).any()
        nll = series(records, "held_out_nll_data_nats" if in_data_units else "held_out_nll_nats")
        error = 2 * series(records, "held_out_nll_se_nats")
        blocks = series(records, "block")
        axes.fill_between(blocks, nll - error, nll + error, color=GENERATED, alpha=0.16, lw=0)
        _draw_series(axes, records, nll, GENERATED)
        if in_data_units and held_out is not None and held_out.gaussian_nll is not None:
            axes.axhline(held_out.gaussian_nll, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
            axes.annotate(
                "Gaussian, shrinkage covariance",
                (1, held_out.gaussian_nll),
                (-4, 4),
                ha="right",
                color=MUTED,
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                fontsize=8.5,
            )
        unit = held_out.unit if in_data_units and held_out is not None else "nats per row, standardised units"
        axes.set_ylabel(unit)
        axes.margins(y=0.14)

    return as_data_uri(draw, width=10, height=2.9)


def draw_terms(records: Records) -> str:
    """The three loss terms of each block on validation rows, each on its own scale."""
    panels = (
        ("potential_nats", r"potential  $\mathrm{E}[V(T)]$", REAL),
        ("neg_log_det_nats", r"volume  $-\mathrm{E}[\log|\det\nabla T|]$", ACCENT),
        ("transport_nats", r"transport  $\mathrm{E}|x-T(x)|^2/(2\gamma)$", GENERATED),
    )

    def draw(figure: Figure) -> None:
        for axes, (key, title, color) in zip(figure.subplots(1, 3), panels, strict=True):
            _draw_series(axes, records, series(records, key), color)
            axes.set_title(title)
            axes.margins(y=0.14)
            if key == "potential_nats":
                axes.set_ylabel("nats")
            if key == "transport_nats":
                _mark_free(axes, records)

    return as_data_uri(draw, width=10, height=2.5)


def draw_transport(records: Records) -> str:
    """Root-mean-square movement of the rows in each block, and summed along the flow."""

    def draw(figure: Figure) -> None:
        each, total = figure.subplots(1, 2, width_ratios=(3, 2))
        blocks = series(records, "block")
        movement = np.sqrt(series(records, "transport"))
        kept = np.array([bool(record.get("kept", True)) for record in records])
        each.bar(blocks[kept], movement[kept], width=0.62, color=REAL)
        each.bar(blocks[~kept], movement[~kept], width=0.62, color="white", edgecolor=FAINT, hatch="////")
        each.set_title(r"each block  $(\mathrm{E}|x-T(x)|^2)^{1/2}$")
        each.set_ylabel("standardised units")
        _number_blocks(each, blocks)

        summed = np.cumsum(np.nan_to_num(np.where(kept, movement, 0.0)))
        total.plot(blocks, summed, color=INK, marker="o", markersize=4)
        total.fill_between(blocks, 0, summed, color=INK, alpha=0.06, lw=0)
        total.set_title("summed over blocks")
        total.set_ylim(0, max(float(summed[-1]) * 1.12, 1e-9))
        _number_blocks(total, blocks)

    return as_data_uri(draw, width=10, height=2.6)

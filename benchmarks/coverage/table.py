"""The coverage table and its calibration plot, from the rows of `run.py`.

    python benchmarks/coverage/table.py [--develop] [--folder ROOT]

Fills the tables of docs/coverage.md and draws docs/coverage.png. An upper end that is infinite counts where
the truth is infinite or above 10 nats, and nowhere else.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
from cases import SUITES, Suite
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "experiments"))

from publish import COLOURS, STYLE, fill_tables, markdown_table  # noqa: E402  (after its folder is known)

Row = dict[str, Any]
_INFINITE_NATS = 10.0
"""An infinite upper end is right from this KL on."""

_SHARE = "{:d} of {:d}"


def read_rows(file: Path) -> list[Row]:
    """Rows in the order of suites, families and numbers."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    order = [family for suite in SUITES.values() for family in suite.families]
    return sorted(rows, key=lambda row: (order.index(row["family"]), row["case"]))


def of_suite(rows: Sequence[Row], suite: Suite) -> list[Row]:
    """The rows of a suite's families."""
    return [row for row in rows if row["family"] in suite.families]


def upper_of(row: Row) -> float:
    """The upper end; infinite where there is none."""
    return math.inf if row["upper_nats"] is None else float(row["upper_nats"])


def upper_holds(row: Row) -> bool:
    """Whether the upper end is at least the KL, and infinite only where that is right."""
    return row["kl_nats"] <= upper_of(row) and (
        math.isfinite(upper_of(row)) or row["kl_nats"] > _INFINITE_NATS
    )


def neighbours_hold(row: Row) -> bool:
    """Whether the interval by nearest neighbours holds the KL."""
    interval = row.get("neighbours_nats")
    return interval is not None and interval[0] <= row["kl_nats"] <= interval[1]


def estimate_is_near(row: Row) -> bool:
    """Whether the estimate is within a factor 2; where there is none, the KL has to be infinite."""
    if row["estimate_nats"] is None:
        return math.isinf(row["kl_nats"])
    return 0.5 <= row["estimate_nats"] / row["kl_nats"] <= 2


def count(rows: Sequence[Row], holds: Callable[[Row], bool], *, least_kl: float = 0.0) -> str:
    """Of how many of the rows with a KL of at least `least_kl` it holds."""
    looked_at = [row for row in rows if row["kl_nats"] >= least_kl]
    return _SHARE.format(sum(holds(row) for row in looked_at), len(looked_at))


def summary(name: str, rows: Sequence[Row]) -> list[str]:
    """One line of the table."""
    finite = [row for row in rows if math.isfinite(row["kl_nats"])]
    ratios = [upper_of(row) / row["kl_nats"] for row in finite if row["kl_nats"] >= 0.02]
    return [
        name,
        count(rows, lambda row: row["lower_nats"] <= row["kl_nats"]),
        count(rows, upper_holds),
        f"{statistics.median(ratios):.2f}" if ratios else "–",
        count(rows, estimate_is_near, least_kl=0.02),
        count(finite, lambda row: row["lower_nats"] >= row["kl_nats"] / 2, least_kl=0.05),
        count(finite, neighbours_hold),
    ]


def coverage_table(rows: Sequence[Row]) -> str:
    """Per family and together."""
    done = [row for row in rows if row["outcome"] == "done"]
    families = dict.fromkeys(row["family"] for row in done)
    parts = [(family, [row for row in done if row["family"] == family]) for family in families]
    header = (
        "family",
        "lower ≤ KL",
        "upper ≥ KL, infinite only where right",
        "median upper/KL, KL ≥ 0.02",
        "estimate within factor 2, KL ≥ 0.02",
        "lower ≥ KL/2, KL ≥ 0.05",
        "neighbours' interval holds KL",
    )
    return markdown_table(header, [summary(name, part) for name, part in (*parts, ("all", done)) if part])


def missed_table(rows: Sequence[Row]) -> str:
    """The cases whose bracket does not hold the truth."""
    header = ("case", "law", "columns", "KL", "± s.e.", "lower", "estimate", "upper")
    missed = [
        row
        for row in rows
        if row["outcome"] == "done" and not (row["lower_nats"] <= row["kl_nats"] and upper_holds(row))
    ]
    lines = [
        [
            row["case"],
            row["kind"],
            row["dim"],
            *(
                "–" if row[key] is None else float(row[key])
                for key in ("kl_nats", "kl_se_nats", "lower_nats", "estimate_nats")
            ),
            upper_of(row),
        ]
        for row in missed
    ]
    return markdown_table(header, lines) if lines else "None."


def cases_table(rows: Sequence[Row]) -> str:
    """How the cases are spread, and what they cost."""
    done = [row for row in rows if row["outcome"] == "done"]
    kls = sorted(row["kl_nats"] for row in done)
    infinite = sum(map(math.isinf, kls))
    seconds = [row["certify_cpu_seconds"] for row in done]
    lines = [
        ["cases", len(done)],
        ["drawn, but KL out of range", len(rows) - len(done)],
        ["KL infinite", infinite],
        [
            "KL, smallest, median, largest finite",
            ", ".join(f"{kl:.3f}" for kl in (kls[0], kls[len(kls) // 2], kls[-1 - infinite])),
        ],
        ["KL > 0.1", sum(kl > 0.1 for kl in kls)],
        ["bracket, median and largest CPU seconds", f"{statistics.median(seconds):.0f}, {max(seconds):.0f}"],
        ["all fits and brackets, CPU minutes", f"{_minutes(rows):.0f}"],
    ]
    return markdown_table(("", ""), lines)


def _minutes(rows: Sequence[Row]) -> float:
    return sum(row["fit_cpu_seconds"] + row.get("certify_cpu_seconds", 0.0) for row in rows) / 60


def draw(rows: Sequence[Row]) -> Figure:
    """Each bracket as a line with its estimate, over the true KL; one panel a suite."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.5, 5.2))
        for axes, (name, suite) in zip(
            figure.subplots(1, len(SUITES), sharey=True), SUITES.items(), strict=True
        ):
            _draw_suite(axes, of_suite(rows, suite))
            axes.set_title(f"{name} hundred" if name == "first" else "further kinds of law")
        figure.axes[0].set_ylabel("certified from held-out rows, nats (below 0.001 drawn at 0.001)")
        return figure


def _draw_suite(axes: Axes, rows: Sequence[Row], *, least: float = 1e-3, most: float = 40.0) -> None:
    done = [row for row in rows if row["outcome"] == "done"]
    looks = product("os", COLOURS)  # squares where the colours are used up
    for (marker, colour), family in zip(looks, dict.fromkeys(row["family"] for row in done), strict=False):
        own = [row for row in done if row["family"] == family]
        for row in own:
            ends = max(row["lower_nats"], least), min(upper_of(row), most)
            axes.plot([min(row["kl_nats"], most)] * 2, ends, color=colour, alpha=0.45, linewidth=1.2)
        told = [row for row in own if row["estimate_nats"] is not None]
        axes.scatter(
            [row["kl_nats"] for row in told],
            [max(row["estimate_nats"], least) for row in told],
            s=14,
            marker=marker,
            color=colour,
            label=family,
            zorder=3,
        )
    axes.plot([0.004, most], [0.004, most], color="#1f2733", linewidth=0.9, label="the truth")
    axes.set(xscale="log", yscale="log", xlim=(0.004, 1.2 * most), ylim=(least * 0.9, 1.2 * most))
    axes.set_xlabel(f"true KL(data‖model), nats ({most:g} for infinite)")
    axes.legend(loc="lower right", fontsize=8)


def main() -> None:
    """Print the tables; write page and picture unless the cases are those of development."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--develop", action="store_true", help="print those of development, write nothing")
    parser.add_argument("--folder", type=Path, default=ROOT, help="root of results and docs")
    options = parser.parse_args()
    name = "coverage_develop" if options.develop else "coverage"
    rows = read_rows(options.folder / "benchmarks" / "results" / f"{name}.jsonl")
    tables = {"missed": missed_table(rows)}
    for suite, about in SUITES.items():
        own = of_suite(rows, about)
        if any(row["outcome"] == "done" for row in own):
            tables |= {f"cases {suite}": cases_table(own), f"coverage {suite}": coverage_table(own)}
    print("\n\n".join(tables.values()))
    if not options.develop:
        draw(rows).savefig(options.folder / "docs" / "coverage.png", bbox_inches="tight")
        page = options.folder / "docs" / "coverage.md"
        page.write_text(fill_tables(page.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main()

"""The coverage table and its calibration plot, from the rows of `run.py`.

    python benchmarks/coverage/table.py [--develop] [--folder ROOT]

Fills the tables of docs/coverage.md and draws docs/coverage.png.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "experiments"))

from publish import COLOURS, STYLE, fill_tables, markdown_table  # noqa: E402  (after its folder is known)

Row = dict[str, Any]
FAMILIES = ("shapes", "mixtures", "tails")
_SHARE = "{:d} of {:d}"


def read_rows(file: Path) -> list[Row]:
    """Rows in the order of families and numbers."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return sorted(rows, key=lambda row: (FAMILIES.index(row["family"]), row["case"]))


def upper_of(row: Row) -> float:
    """The upper end; infinite where there is none."""
    return math.inf if row["upper_nats"] is None else float(row["upper_nats"])


def count(rows: Sequence[Row], holds: Callable[[Row], bool], *, least_kl: float = 0.0) -> str:
    """Of how many of the rows with a KL of at least `least_kl` it holds."""
    looked_at = [row for row in rows if row["kl_nats"] >= least_kl]
    return _SHARE.format(sum(holds(row) for row in looked_at), len(looked_at))


def summary(name: str, rows: Sequence[Row]) -> list[str]:
    """One line of the table."""
    ratios = [upper_of(row) / row["kl_nats"] for row in rows if row["kl_nats"] >= 0.02]
    return [
        name,
        count(rows, lambda row: row["lower_nats"] <= row["kl_nats"]),
        count(rows, lambda row: row["kl_nats"] <= upper_of(row) < math.inf),
        f"{statistics.median(ratios):.2f}" if ratios else "–",
        count(rows, lambda row: 0.5 <= row["estimate_nats"] / row["kl_nats"] <= 2, least_kl=0.02),
        count(rows, lambda row: row["lower_nats"] >= row["kl_nats"] / 2, least_kl=0.05),
    ]


def coverage_table(rows: Sequence[Row]) -> str:
    """Per family and together."""
    done = [row for row in rows if row["outcome"] == "done"]
    parts = [(family, [row for row in done if row["family"] == family]) for family in FAMILIES]
    header = (
        "family",
        "lower ≤ KL",
        "upper finite and ≥ KL",
        "median upper/KL, KL ≥ 0.02",
        "estimate within factor 2, KL ≥ 0.02",
        "lower ≥ KL/2, KL ≥ 0.05",
    )
    return markdown_table(header, [summary(name, part) for name, part in (*parts, ("all", done)) if part])


def missed_table(rows: Sequence[Row]) -> str:
    """The cases whose bracket does not hold the truth."""
    header = ("case", "law", "columns", "KL", "± s.e.", "lower", "estimate", "upper")
    missed = [
        row
        for row in rows
        if row["outcome"] == "done" and not row["lower_nats"] <= row["kl_nats"] <= upper_of(row) < math.inf
    ]
    lines = [
        [
            row["case"],
            row["kind"],
            row["dim"],
            *(float(row[key]) for key in ("kl_nats", "kl_se_nats", "lower_nats", "estimate_nats")),
            upper_of(row),
        ]
        for row in missed
    ]
    return markdown_table(header, lines) if lines else "None."


def cases_table(rows: Sequence[Row]) -> str:
    """How the cases are spread, and what they cost."""
    done = [row for row in rows if row["outcome"] == "done"]
    kls = sorted(row["kl_nats"] for row in done)

    seconds = [row["certify_cpu_seconds"] for row in done]
    lines = [
        ["cases", len(done)],
        ["drawn, but KL outside [0.005, 2]", len(rows) - len(done)],
        [
            "KL, smallest, median, largest",
            ", ".join(f"{kl:.3f}" for kl in (kls[0], kls[len(kls) // 2], kls[-1])),
        ],
        ["KL > 0.1", sum(kl > 0.1 for kl in kls)],
        ["bracket, median and largest CPU seconds", f"{statistics.median(seconds):.0f}, {max(seconds):.0f}"],
        ["all fits and brackets, CPU minutes", f"{_minutes(rows):.0f}"],
    ]
    return markdown_table(("", ""), lines)


def _minutes(rows: Sequence[Row]) -> float:
    return sum(row["fit_cpu_seconds"] + row.get("certify_cpu_seconds", 0.0) for row in rows) / 60


def draw(rows: Sequence[Row]) -> Figure:
    """Each bracket as a line with its estimate, over the true KL."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 5.2))
        axes = figure.subplots()
        least = 1e-3
        for colour, family in zip(COLOURS, FAMILIES, strict=False):
            done = [row for row in rows if row["family"] == family and row["outcome"] == "done"]
            for row in done:
                ends = max(row["lower_nats"], least), min(upper_of(row), 20.0)
                axes.plot([row["kl_nats"]] * 2, ends, color=colour, alpha=0.45, linewidth=1.2)
            axes.scatter(
                [row["kl_nats"] for row in done],
                [max(row["estimate_nats"], least) for row in done],
                s=14,
                color=colour,
                label=f"{family}: bracket and estimate",
                zorder=3,
            )
        axes.plot([0.004, 2.5], [0.004, 2.5], color="#1f2733", linewidth=0.9, label="the truth")
        axes.set(xscale="log", yscale="log", xlim=(0.004, 2.5), ylim=(least * 0.9, 8))
        axes.set_xlabel("true KL(data‖model), nats")
        axes.set_ylabel("certified from held-out rows, nats (below 0.001 drawn at 0.001)")
        axes.legend(loc="lower right")
        return figure


def main() -> None:
    """Print the tables; write page and picture unless the cases are those of development."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--develop", action="store_true", help="print those of development, write nothing")
    parser.add_argument("--folder", type=Path, default=ROOT, help="root of results and docs")
    options = parser.parse_args()
    name = "coverage_develop" if options.develop else "coverage"
    rows = read_rows(options.folder / "benchmarks" / "results" / f"{name}.jsonl")
    tables = {"cases": cases_table(rows), "coverage": coverage_table(rows), "missed": missed_table(rows)}
    print("\n\n".join(tables.values()))
    if not options.develop:
        draw(rows).savefig(options.folder / "docs" / "coverage.png", bbox_inches="tight")
        page = options.folder / "docs" / "coverage.md"
        page.write_text(fill_tables(page.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main()

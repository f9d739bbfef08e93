"""What an experiment leaves: its numbers as JSON, its picture and the tables of its page.

    experiments/results/NAME.json      settings, versions and every row of the experiment
    docs/experiments/NAME.png          its picture

The text of a page is written by hand; what stands in it between `<!-- table KEY -->` and `<!-- end -->` is
written by the script, so that no number is copied.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

import jkoflow

ROOT = Path(__file__).parents[1]

COLOURS = ("#2f4b7c", "#e07a3f", "#2a8c82", "#8c5a9e", "#b8860b", "#6b7686")
"""In this order, so that the same series has the same colour in all pictures."""

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#b4bcc8",
    "axes.prop_cycle": mpl.cycler(color=COLOURS),
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "figure.dpi": 100,
    "savefig.dpi": 130,
}


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every experiment has: `--seed` and `--folder`, where results and docs go."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--folder", type=Path, default=ROOT, help="root that the files are written under")
    return made


def publish(
    name: str,
    *,
    folder: Path,
    settings: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    started: float,
    figure: Figure | None = None,
    tables: Mapping[str, str] | None = None,
) -> None:
    """Write the results, the picture, and the tables into the page where there is one.

    Arguments:
        name: Of the experiment: the script's own.
        folder: Root under which `experiments/results` and `docs/experiments` lie.
        settings: What the numbers depend on.
        rows: The numbers, one mapping each.
        started: `time.process_time()` at the start.
        figure: The picture.
        tables: Markdown tables by key; see the module.
    """
    results, pages = folder / "experiments" / "results", folder / "docs" / "experiments"
    results.mkdir(parents=True, exist_ok=True)
    pages.mkdir(parents=True, exist_ok=True)
    record = {
        "experiment": name,
        "jkoflow": jkoflow.__version__,
        "python": platform.python_version(),
        "cpu_seconds": round(time.process_time() - started, 1),
        "settings": dict(settings),
        "rows": [{key: _plain(value) for key, value in row.items()} for row in rows],
    }
    (results / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if figure is not None:
        figure.savefig(pages / f"{name}.png", bbox_inches="tight")
    page = pages / f"{name}.md"
    write_tables(page, tables or {})


def write_tables(page: Path, tables: Mapping[str, str]) -> None:
    """Put the tables into their places on the page, where there is one."""
    if tables and page.exists():
        page.write_text(fill_tables(page.read_text(encoding="utf-8"), tables), encoding="utf-8")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table of Markdown; numbers with four significant digits."""
    lines = [header, ["---"] * len(header), *[[_shown(cell) for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent p of y ~ x^p: slope of the least-squares line of the logarithms."""
    horizontal, vertical = [math.log(value) for value in x], [math.log(value) for value in y]
    centre = sum(horizontal) / len(horizontal)
    weights = [value - centre for value in horizontal]
    return sum(w * v for w, v in zip(weights, vertical, strict=True)) / sum(w * w for w in weights)


def fill_tables(text: str, tables: Mapping[str, str]) -> str:
    """The text of a page with the tables in their places; ValueError where one has none."""
    for key, table in tables.items():
        begin = f"<!-- table {key} -->"
        if begin not in text:
            raise ValueError(f"the page has no place for table {key!r}: expected {begin}")
        pattern = re.escape(begin) + r".*?<!-- end -->"
        block = f"{begin}\n\n{table}\n\n<!-- end -->".replace("\\", r"\\")
        text = re.sub(pattern, block, text, flags=re.DOTALL)
    return text


def _shown(cell: Any) -> str:
    if isinstance(cell, float):
        return "–" if math.isnan(cell) else f"{cell:.4g}"
    return str(cell)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.item() if hasattr(value, "item") else value

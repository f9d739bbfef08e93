"""What rows and blocks cost: CPU-seconds against both, and peak memory against blocks.

    seconds ~ rows^p,   seconds ~ blocks^p,   p = 1 where nothing is done to all rows, or all blocks, at once

Rows: a flow of two trained blocks pushes them and scores them (log q_0, the exact determinant). Blocks: whole
progressive fits with the same few updates for every block, so that how long a block trains is left out. Sizes
take turns (A B C A B C ...); seconds are medians of `time.process_time`, one thread. Memory: as
`benchmarks/memory.py`, each number of blocks in a process of its own.

    python benchmarks/scaling.py [--rows 5000 ... 80000] [--blocks 2 4 8 16 32] [--memory-blocks 4 32]

Appends its rows to benchmarks/results/scaling.jsonl, draws docs/scaling.png and fills the tables of
docs/performance.md.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from memory import fit_apart, progressive_fit
from run_record import append_rows, run_head

from jkoflow.flow import Flow
from jkoflow.flow.likelihood import log_prob
from jkoflow.storage.chunks import PUSH_ROWS

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "experiments"))

from publish import COLOURS, STYLE, markdown_table, slope, write_tables  # noqa: E402  (after its folder is known)


def rows_of(n_rows: int, columns: int) -> torch.Tensor:
    """Standard normal rows: what they are does not change what they cost."""
    return torch.randn(n_rows, columns, generator=torch.Generator().manual_seed(0))


def seconds_of(work: Callable[[], object]) -> float:
    """CPU-seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def median_seconds(works: dict[int, Callable[[], object]], repeats: int) -> dict[int, float]:
    """Median CPU-seconds of each call, which take turns; a first call, of the first size, is not counted."""
    next(iter(works.values()))()
    seconds: dict[int, list[float]] = {size: [] for size in works}
    for _ in range(repeats):
        for size, work in works.items():
            seconds[size].append(seconds_of(work))
    return {size: statistics.median(taken) for size, taken in seconds.items()}


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each part and size."""
    flow = progressive_fit(rows_of(1000, options.columns), 2, options.updates).flow
    given = {size: rows_of(size, options.columns) for size in options.rows}
    parts: dict[str, dict[int, Callable[[], object]]] = {
        "push": {size: _bound(Flow.push, flow, x) for size, x in given.items()},
        "score": {size: _bound(log_prob, flow, x) for size, x in given.items()},
        "fit": {
            size: _bound(progressive_fit, rows_of(options.fit_rows, options.columns), size, options.updates)
            for size in options.blocks
        },
    }
    found = []
    for part, works in parts.items():
        for size, seconds in median_seconds(works, options.repeats).items():
            found.append({"part": part, "size": size, "cpu_seconds": seconds})
    for size in options.memory_blocks:
        row = fit_apart(size, rows=options.fit_rows, columns=options.columns, updates=options.updates)
        found.append({"part": "memory", "size": size, **{key: row[key] for key in ("fit_mb", "peak_mb")}})
    return found


def _bound(function: Callable[..., object], *given: object) -> Callable[[], object]:
    return lambda: function(*given)


def of_part(rows: Sequence[dict[str, Any]], part: str, key: str) -> tuple[list[int], list[float]]:
    """Sizes and numbers of one part."""
    chosen = [row for row in rows if row["part"] == part]
    return [row["size"] for row in chosen], [row[key] for row in chosen]


def whole_chunk_slope(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The exponent over sizes of at least a whole chunk (`PUSH_ROWS`), whose arrays are all of one size."""
    whole = [pair for pair in zip(sizes, seconds, strict=True) if pair[0] >= PUSH_ROWS]
    return slope(*zip(*whole, strict=True)) if len(whole) > 1 else math.nan


def tables(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Markdown: seconds by rows, seconds by blocks, memory by blocks."""
    sizes, push = of_part(rows, "push", "cpu_seconds")
    _, score = of_part(rows, "score", "cpu_seconds")
    blocks, fit = of_part(rows, "fit", "cpu_seconds")
    memory_blocks, fit_mb = of_part(rows, "memory", "fit_mb")
    _, peak_mb = of_part(rows, "memory", "peak_mb")
    return {
        "scaling_rows": markdown_table(
            ["rows", *(f"{size:,}" for size in sizes), "exponent", "of whole chunks"],
            [
                [f"{part}, CPU s", *seconds, slope(sizes, seconds), whole_chunk_slope(sizes, seconds)]
                for part, seconds in (("push", push), ("score", score))
            ],
        ),
        "scaling_blocks": markdown_table(
            ["blocks", *map(str, blocks), "exponent"], [["fit, CPU s", *fit, slope(blocks, fit)]]
        ),
        "scaling_memory": markdown_table(
            ["blocks", *map(str, memory_blocks), "last / first"],
            [
                ["fit, MB", *fit_mb, fit_mb[-1] / fit_mb[0]],
                ["whole process, MB", *peak_mb, peak_mb[-1] / peak_mb[0]],
            ],
        ),
    }


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """Three panels on logarithmic axes: seconds by rows, seconds by blocks, memory by blocks."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.0), layout="constrained")
        by_rows, by_blocks, memory = figure.subplots(1, 3)
        for colour, part in zip(COLOURS, ("push", "score"), strict=False):
            _curve(by_rows, *of_part(rows, part, "cpu_seconds"), part, colour)
        _curve(by_blocks, *of_part(rows, "fit", "cpu_seconds"), "fit", COLOURS[2])
        sizes, peak_mb = of_part(rows, "memory", "peak_mb")
        memory.plot(sizes, peak_mb, "o-", color=COLOURS[4], label="whole process")
        memory.plot(*of_part(rows, "memory", "fit_mb"), "o-", color=COLOURS[3], label="of that the fit")
        memory.set(xscale="log", ylim=(0, 1.5 * max(peak_mb)), title="A whole fit: peak memory, MB")
        by_rows.set(title="Two blocks: CPU seconds", xlabel="rows")
        by_blocks.set(title="A whole fit: CPU seconds", xlabel="blocks")
        memory.set_xlabel("blocks")
        for axes, part in ((by_rows, "push"), (by_blocks, "fit"), (memory, "memory")):
            ticks = of_part(rows, part, "part")[0]
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
            axes.minorticks_off()
        for axes in (by_rows, by_blocks, memory):
            axes.legend()
    return figure


def _curve(axes: Axes, sizes: list[int], seconds: list[float], name: str, colour: str) -> None:
    axes.loglog(sizes, seconds, "o-", color=colour, label=f"{name}, exponent {slope(sizes, seconds):.2f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, append, draw, fill."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[5000, 10_000, 20_000, 40_000, 80_000])
    parser.add_argument("--blocks", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--memory-blocks", type=int, nargs="+", default=[4, 32])
    parser.add_argument("--fit-rows", type=int, default=5000)
    parser.add_argument("--columns", type=int, default=4)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=ROOT, help="root that results and docs lie under")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    names = ("fit_rows", "columns", "updates", "repeats")
    run = run_head(**{name: getattr(options, name) for name in names})
    rows = measure(options)
    docs = options.folder / "docs"
    docs.mkdir(parents=True, exist_ok=True)
    append_rows(options.folder / "benchmarks" / "results" / "scaling.jsonl", ({**run, **row} for row in rows))
    draw(rows).savefig(docs / "scaling.png", bbox_inches="tight")
    found = tables(rows)
    write_tables(docs / "performance.md", found)
    print(f"run {run['run']}\n\n" + "\n\n".join(found.values()))


if __name__ == "__main__":
    main()

"""How well budgets are kept: CPU-seconds of whole fits over the budget that they were given.

    ratio = CPU-seconds from the call of fit to its return / budget

Each case is fitted in this process, on one thread, one after the other: rows of a bent mixture of two normal
laws, of so many columns, for every objective. A fit that uses less says why it ended.

    python benchmarks/budgets.py                             all objectives, 2, 10, 64 and 256 columns, 60 s
    python benchmarks/budgets.py --columns 2 --budget 20     one part of it
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from run_record import append_rows, run_head

from jkoflow import JKOFlow

RESULTS = Path(__file__).parent / "results" / "budgets.jsonl"
METHODS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "auto": {},
        "auto, closing=None": {"closing": None},
        "jko": {"objective": "jko"},
        "end_to_end": {"objective": "end_to_end"},
        "flow_matching": {"objective": "flow_matching"},
    }
)


def bent_mixture(n_rows: int, columns: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """Rows of two normal laws, each column bent by the one before it, shape `(n_rows, columns)`."""
    source = np.random.default_rng(seed)
    rows = source.normal(size=(n_rows, columns)) * 0.4 + source.choice([-1.0, 1.0], size=(n_rows, 1))
    rows[:, 1:] += np.sin(2 * rows[:, :-1])
    return rows


def measure(name: str, columns: int, *, rows: int, budget: float) -> dict[str, Any]:
    """Fit once; the row of the table."""
    table = bent_mixture(rows, columns)
    start = time.process_time()
    model = JKOFlow(budget=budget, random_state=0, **METHODS[name]).fit(table)
    seconds = time.process_time() - start
    trained = [sum(step["updates"].values()) for step in model.steps_ if step["finished_on"] != "closed_form"]
    return {
        "method": name,
        "columns": columns,
        "train_rows": rows,
        "budget_cpu_seconds": budget,
        "cpu_seconds": seconds,
        "ratio": seconds / budget,
        "blocks": model.results_["blocks"],
        "fewest_updates_of_a_block": min(trained, default=None),
        "ended": model.results_["ended"],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, record and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--columns", nargs="+", type=int, default=[2, 10, 64, 256])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--budget", nargs="+", type=float, default=[60.0])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found, head = [], run_head()
    for budget in options.budget:
        for columns in options.columns:
            for name in options.methods:
                row = measure(name, columns, rows=options.rows, budget=budget)
                found.append(head | row)
                print(
                    f"| {name} | {columns} | {budget:g} | {row['ratio']:.3f} | {row['ended']} |", flush=True
                )
    append_rows(RESULTS, found)


if __name__ == "__main__":
    main()

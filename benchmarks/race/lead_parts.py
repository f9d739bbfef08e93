"""What each part of the default fit does: the NLL of fresh rows with one part after the other taken away.

    whole · no kernels · no mixture beside the network · network alone · no autoregressive block at all

Rows are training rows of the race, split again: no test row is looked at. NLL in nats, standardised columns.

    python benchmarks/race/lead_parts.py --data-dir D                             five problems, 60 s each
    python benchmarks/race/lead_parts.py --data-dir D --problems power --budget 30
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from density import Reals
from problems import MissingFileError, prepare

from jkoflow.config import Settings
from jkoflow.data import read_table
from jkoflow.fitting import fit_table
from jkoflow.recipe import LeadRules, Recipe

sys.path.append(str(Path(__file__).parents[1]))

from run_record import append_rows, run_head

RESULTS = Path(__file__).parents[1] / "results" / "lead_parts.jsonl"
PROBLEMS = ("power", "protein", "mammography", "posterior-eight_schools_noncentered", "miniboone")
PARTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "whole": {},
        "no kernels": {"leaf_gain_nats": math.inf},
        "no mixture": {"mixture_products": 0.0},
        "network alone": {"leaf_gain_nats": math.inf, "mixture_products": 0.0},
        "no autoregressive block": {"trial_updates": 0},
    }
)
FRESH_SHARE = 0.1


def split_again(rows: Reals, seed: int) -> tuple[Reals, Reals]:
    """Training rows to fit, and those to judge by."""
    order = np.random.default_rng([seed, 7]).permutation(len(rows))
    fresh = max(1, round(FRESH_SHARE * len(rows)))
    return rows[order[fresh:]], rows[order[:fresh]]


def measure(rows: Reals, part: str, *, budget: float, seed: int) -> dict[str, Any]:
    """Fit once; the row of the table."""
    fitted_on, fresh = split_again(rows, seed)
    recipe = Recipe(lead=replace(LeadRules(), **PARTS[part]))
    settings = Settings(budget=budget, seed=seed)
    start = time.process_time()
    fitted = fit_table(read_table(fitted_on), settings=settings, recipe=recipe)
    seconds = time.process_time() - start
    nats = -fitted.model.log_prob(read_table(fresh))
    return {
        "part": part,
        "nll_nats": float(nats.mean()),
        "nll_se_nats": float(nats.std() / math.sqrt(len(nats))),
        "cpu_seconds": seconds,
        "blocks": [type(block).__name__ for block in fitted.model.flow],
        "updates": [step["updates"] for step in fitted.steps],
        "trees": [step.get("trees", 0) for step in fitted.steps],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, record and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("JKOFLOW_DATA"))
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS))
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--budget", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    head = run_head(budget_cpu_seconds=options.budget, seed=options.seed)
    for name in options.problems:
        try:
            rows = prepare(name, Path(options.data_dir or "."), options.seed)[0].train
        except MissingFileError as missing:
            append_rows(
                options.results,
                [head | {"problem": name, "outcome": "skipped", "missing": missing.filename}],
            )
            print(f"| {name} | skipped: no {missing.filename} in --data-dir |", flush=True)
            continue
        for part in options.parts:
            row = measure(rows, part, budget=options.budget, seed=options.seed)
            append_rows(options.results, [head | {"problem": name, "outcome": "done"} | row])
            print(
                f"| {name} | {part} | {row['nll_nats']:.3f} ± {row['nll_se_nats']:.3f} |"
                f" {row['cpu_seconds']:.0f} s | {', '.join(row['blocks'])} | trees {row['trees'][:1]},"
                f" updates {row['updates'][:1]} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

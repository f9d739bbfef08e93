"""What several processes of torchrun need, and how far rounding in a gradient carries a fit.

    memory    anonymous memory of each of N processes at its peak, and whether the model has the same bytes
    rounding  held-out NLL and updates of a fit each of whose gradients is multiplied by 1 + e, |e| <= 5e-8

The first is of reading, splitting, pushing and one affine block in closed form. The second is why updates are
not divided among processes: a sum in another order differs by about as much.

    python benchmarks/processes.py [--rows 2000000] [--columns 10] [--processes 1 2 4] [--rounding-rows 20000]

Appends rows to benchmarks/results/processes.jsonl. Linux only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from large_table import MemoryWatch
from run_record import append_rows, run_head
from torch import Tensor

from jkoflow.cli import main as jkoflow_command
from jkoflow.config import Settings
from jkoflow.data import read_table
from jkoflow.fitting import fit_table
from jkoflow.runtime import seed_stream
from jkoflow.steps import descent

RESULTS = Path(__file__).parent / "results" / "processes.jsonl"
SETTINGS = 'max_blocks = 1\nobjective = "jko"\nblock = "affine"\ngamma = 0.5\n'


def table(n_rows: int, columns: int) -> npt.NDArray[np.float64]:
    """Rows of which the second column bends with the first, and the last is of both tails."""
    rows = np.random.default_rng(0).normal(size=(n_rows, columns))
    rows[:, 1] += np.sin(3 * rows[:, 0])
    rows[:, -1] *= np.exp(0.5 * rows[:, 1])
    return rows


def memory_rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What each number of processes needs for the same fit."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = [f"c{place}" for place in range(options.columns)]
        frame = pd.DataFrame(table(options.rows, options.columns), columns=pd.Index(names))
        frame.to_parquet(folder / "table.parquet", row_group_size=100_000)
        (folder / "settings.toml").write_text(SETTINGS)
        for count in options.processes:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
            program = [__file__, "--fit", str(folder), str(count)]
            wall = time.perf_counter()
            subprocess.run(
                [sys.executable, *(launcher if count > 1 else []), *program],
                check=True,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            told = [json.loads(file.read_text()) for file in folder.glob(f"told_{count}_*.json")]
            model = (folder / f"run_{count}" / "model" / "model.safetensors").read_bytes()
            yield {
                "measured": "memory",
                "processes": count,
                "peak_anonymous_mb": max(one["peak_mb"] for one in told),
                "cpu_seconds": max(one["cpu_seconds"] for one in told),
                "wall_seconds": time.perf_counter() - wall,
                "model_sha256": hashlib.sha256(model).hexdigest(),
            }


def fit_here(folder: Path, count: int) -> int:
    """The fit in this process, one of `count`, which writes what it took."""
    watch = MemoryWatch()
    arguments = ["fit", str(folder / "table.parquet"), "-o", str(folder / f"run_{count}")]
    status = jkoflow_command([*arguments, "--config", str(folder / "settings.toml")])
    watch.stop()
    told = {"peak_mb": watch.peak_mb, "cpu_seconds": time.process_time()}
    (folder / f"told_{count}_{os.environ.get('RANK', '0')}.json").write_text(json.dumps(told))
    return status


def rounding_rows(n_rows: int, *, size: float = 5e-8) -> Iterator[dict[str, Any]]:
    """The same fit with exact gradients, and with ones that are changed at random as rounding does."""
    rows = read_table(table(n_rows, 4))
    exact = descent._Weights.gradient
    for changed in (0.0, size):
        source = seed_stream(0, "rounding")

        def gradient(
            weights: Any, value: Tensor, *, changed: float = changed, source: Any = source
        ) -> Tensor:
            found = exact(weights, value)
            return (
                found * (1 + changed * (2 * torch.rand(found.shape, generator=source) - 1))
                if changed
                else found
            )

        descent._Weights.gradient = gradient  # type: ignore[method-assign]  # a stand-in for this fit
        try:
            fitted = fit_table(rows, settings=Settings(holdout_fraction=0.1))
        finally:
            descent._Weights.gradient = exact  # type: ignore[method-assign]  # its own again
        yield {
            "measured": "rounding",
            "rows": n_rows,
            "changed_by": changed,
            "held_out_nll_nats": fitted.results["held_out_nll_nats"],
            "updates": [step["updates"]["warm_start"] for step in fitted.steps],
            "kept": [step["kept"] for step in fitted.steps],
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--rounding-rows", type=int, default=20_000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--fit", nargs=2, metavar=("FOLDER", "COUNT"), help="one of the processes")
    options = parser.parse_args(arguments)
    if options.fit is not None:
        return fit_here(Path(options.fit[0]), int(options.fit[1]))
    torch.set_num_threads(1)
    head = run_head(rows=options.rows, columns=options.columns)
    for measure in (memory_rows(options), rounding_rows(options.rounding_rows)):
        for row in measure:
            print(row, flush=True)
            append_rows(options.results, [{**head, **row}])
    return 0


if __name__ == "__main__":
    sys.exit(main())

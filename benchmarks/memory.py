"""Peak memory of a progressive fit against its number of blocks: it must not grow.

Each fit runs in a process of its own; memory is the peak of its resident set (`VmHWM` or `ru_maxrss`),
above what the process held before the fit. glibc is told to return large freed arrays to the system at
once, or its caching of them would be what is measured. A fit takes the steps of `jkoflow.fold.proximal_fold`
on the proximal objective, with a few updates per block: how long a block trains does not change what it
holds.

    python benchmarks/memory.py [--blocks 2 4 8 16] [--rows 20000] [--columns 10] [--updates 3]

Prints a Markdown table and appends its rows to benchmarks/results/memory.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from process_memory import peak_mb
from run_record import append_rows, run_head

from jkoflow.blocks.ode.family import NetworkSettings, NeuralODEFamily
from jkoflow.fold import Fold, proximal_fold
from jkoflow.functionals import KL
from jkoflow.journal import Journal
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles
from jkoflow.recipe import DescentSettings
from jkoflow.runtime import Runtime
from jkoflow.steps import State, initial_state
from jkoflow.steps.solvers import ProximalSolver

RESULTS = Path(__file__).parent / "results" / "memory.jsonl"
BATCH = 512
STEP_SIZE = 0.1
RETURNING = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def progressive_fit(x: torch.Tensor, n_blocks: int, updates: int) -> State:
    """The last state of a fit of `n_blocks` blocks, a few updates each; a tenth of the rows is held out."""
    columns, n_validation = x.shape[1], len(x) // 10
    train, validation = Particles(x[n_validation:]), Particles(x[:n_validation])
    state = initial_state(KL(StandardNormal(columns)), train, validation)
    descent = DescentSettings(updates, BATCH, 1e-3, checkpoints=1)
    solver = ProximalSolver(NeuralODEFamily(network=NetworkSettings()), descent)
    return proximal_fold(state, (STEP_SIZE,) * n_blocks, Fold(solver, Runtime(seed=0), Journal()))


def fit(n_blocks: int, rows: int, columns: int, updates: int) -> dict[str, float]:
    """One progressive fit; what it added to the process, and what its particles and blocks weigh, MB."""
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    before = peak_mb()
    state = progressive_fit(x, n_blocks, updates)
    numbers = sum(tensor.numel() for tensor in state.flow.state_dict().values())
    return {
        "blocks": len(state.flow),
        "peak_mb": peak_mb(),
        "fit_mb": peak_mb() - before,
        "particles_mb": 4 * x.numel() / 2**20,
        "weights_mb": 4 * numbers / 2**20,
    }


def fit_apart(n_blocks: int, *, rows: int, columns: int, updates: int, threads: int = 1) -> dict[str, float]:
    """`fit` in a process of its own, whose memory nothing else has touched."""
    sizes = {"blocks": n_blocks, "rows": rows, "columns": columns, "updates": updates, "threads": threads}
    command = [sys.executable, __file__, "--one", *(f"--{name}={size}" for name, size in sizes.items())]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=RETURNING)
    row: dict[str, float] = json.loads(done.stdout)
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--one", action="store_true", help="fit here and print one row as JSON")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    size = {"rows": options.rows, "columns": options.columns, "updates": options.updates}
    if options.one:
        print(json.dumps(fit(options.blocks[0], **size)))
        return
    run = run_head(threads=options.threads, **size)
    print(f"run {run['run']}, {options.rows} x {options.columns}, torch {torch.__version__}\n")
    print("| blocks | peak of the process, MB | of that the fit, MB | particles, MB | trained weights, MB |")
    print("|" + " --- |" * 5)
    for n_blocks in options.blocks:
        row = fit_apart(n_blocks, **size, threads=options.threads)
        append_rows(options.results, [{**run, "outcome": "done", **row}])
        numbers = (f"{row[name]:.1f}" for name in ("peak_mb", "fit_mb", "particles_mb", "weights_mb"))
        print(f"| {row['blocks']} | {' | '.join(numbers)} |", flush=True)


if __name__ == "__main__":
    main()

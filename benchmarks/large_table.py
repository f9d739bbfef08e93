"""A table that does not fit: the fit of ten million rows in a process that may not have them in memory.

The table, a seeded mixture of normal laws in ten columns, is written chunk by chunk to a temporary `.npy`
file and fitted from its path in a process of its own, whose data segment is limited (`RLIMIT_DATA`: heap,
stacks and private mappings, those of the libraries included). Anonymous memory is `RssAnon` of
/proc/self/status, read by a thread every 20 ms; pages of mapped files are not in it, since the system takes
them back when it needs to. The model is judged on fresh rows, beside the law that they are drawn from.

    python benchmarks/large_table.py [--rows 10000000] [--columns 10] [--max-blocks 4] [--gamma GAMMA]
                                      [--budget SECONDS]

Appends one row to benchmarks/results/large_table.jsonl, also where the fit fails. Linux only.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from process_memory import anonymous_mb, peak_mb
from run_record import append_rows, run_head

import jkoflow
from jkoflow import JKOFlow
from jkoflow.flow.likelihood import standard_error
from jkoflow.laws import GaussianMixture
from jkoflow.runtime import seed_stream
from jkoflow.storage.scratch import row_slices

RESULTS = Path(__file__).parent / "results" / "large_table.jsonl"
COMPONENTS = 5
FRESH_ROWS = 100_000


def mixture(columns: int, seed: int) -> GaussianMixture:
    """A mixture of `COMPONENTS` correlated normal laws, the same for the same seed."""
    source = seed_stream(seed, "large table: law")
    centres = 2.5 * torch.randn(COMPONENTS, columns, generator=source, dtype=torch.float64)
    factors = torch.randn(COMPONENTS, columns, columns, generator=source, dtype=torch.float64) / columns**0.5
    covariances = factors @ factors.mT + 0.05 * torch.eye(columns, dtype=torch.float64)
    return GaussianMixture(torch.ones(COMPONENTS), centres, covariances=covariances)


def write_rows(path: Path, law: GaussianMixture, n_rows: int, seed: int) -> None:
    """Draws of the law as a `.npy` file of float64, a chunk at a time."""
    file = np.lib.format.open_memmap(path, "w+", np.float64, (n_rows, law.dim))
    for number, part in enumerate(row_slices(n_rows)):
        source = seed_stream(seed, "large table: rows", number)
        file[part] = law.sample(part.stop - part.start, source).numpy()
    file.flush()


class MemoryWatch:
    """The largest anonymous memory of this process, read by a thread until `stop`, MB."""

    def __init__(self) -> None:
        self.before_mb = self.peak_mb = anonymous_mb()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Read a last time and end the thread."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        ended = False
        while not ended:
            ended = self._stopped.wait(0.02)
            self.peak_mb = max(self.peak_mb, anonymous_mb())


def fit(table: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The fit under the limit and what it took; an exception is an outcome."""
    law = mixture(options.columns, options.seed)
    model = JKOFlow(
        gamma="auto" if options.gamma is None else options.gamma,
        max_blocks=options.max_blocks,
        budget=options.budget,
        validation_fraction=options.validation_fraction,
        random_state=options.seed,
        verbose=1,
    )
    watch, before = MemoryWatch(), resource.getrlimit(resource.RLIMIT_DATA)
    wall, cpu, outcome = time.perf_counter(), time.process_time(), "done"
    resource.setrlimit(resource.RLIMIT_DATA, (options.limit_mb * 2**20, before[1]))
    try:
        model.fit(table)
    except (MemoryError, RuntimeError, OSError, jkoflow.JKOFlowError) as error:  # torch's is a RuntimeError
        outcome = " ".join(f"{type(error).__name__}: {error}".split())
    resource.setrlimit(resource.RLIMIT_DATA, before)
    watch.stop()
    taken = {
        "outcome": outcome,
        "cpu_seconds": time.process_time() - cpu,
        "wall_seconds": time.perf_counter() - wall,
        "before_mb": watch.before_mb,
        "peak_anonymous_mb": watch.peak_mb,
        "peak_resident_mb": peak_mb(),
    }
    return taken if outcome != "done" else {**taken, **judged(model, law, options.seed)}


def judged(model: JKOFlow, law: GaussianMixture, seed: int) -> dict[str, Any]:
    """NLL of fresh rows beside that of the law they are drawn from, nats, and what the fit said of itself."""
    fresh = law.sample(FRESH_ROWS, seed_stream(seed, "large table: fresh rows"))
    ours, truth = torch.as_tensor(-model.score_samples(fresh.numpy())), -law.log_prob(fresh)
    return {
        "blocks": model.results_["blocks"],
        "fresh_rows": FRESH_ROWS,
        "nll_nats": float(ours.mean()),
        "true_nll_nats": float(truth.mean()),
        "excess_nats": float((ours - truth).mean()),
        "excess_se_nats": standard_error(ours - truth),
        "gaussian_nll_nats": model.results_["gaussian_nll_nats"],
    }


def row_of_child(command: Sequence[str]) -> dict[str, Any]:
    """What a process that fits told, or how it ended: a library that is refused memory may end it."""
    child = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if child.returncode:
        return {"outcome": f"the process ended with exit code {child.returncode}"}
    return dict(json.loads(child.stdout))


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the table, fit it in a child, print, append."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--max-blocks", type=int, default=4)
    parser.add_argument("--gamma", type=float, help="step size of every block; found by the fit if not given")
    parser.add_argument("--budget", type=float, default=None, help="CPU-seconds; none by default")
    parser.add_argument("--validation-fraction", type=float, default=0.1)
    parser.add_argument("--limit-mb", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", type=Path, help="fit this file here and print one row as JSON")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.table is not None:
        print(json.dumps(fit(options.table, options)))
        return
    names = ("rows", "columns", "gamma", "max_blocks", "budget", "validation_fraction", "limit_mb", "seed")
    size = {name: getattr(options, name) for name in names}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in size.items() if value is not None]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.npy"
        write_rows(path, mixture(options.columns, options.seed), options.rows, options.seed)
        command = [sys.executable, __file__, f"--table={path}", *flags]
        row = {"table_mb": path.stat().st_size / 2**20, **row_of_child(command)}
    run = run_head(**size)
    append_rows(options.results, [{**run, **row}])
    print("\n".join(f"{key}: {value}" for key, value in {**run, **row}.items()))


if __name__ == "__main__":
    main()

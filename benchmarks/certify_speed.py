"""Seconds and peak memory of a certificate, by reader, against the number of held-out rows.

One flow is fitted to draws of a mixture of normal laws; then each number of fresh rows is certified in a
process of its own. Seconds are of the wall and of the CPU, one thread; memory is the peak of the resident set
(`process_memory`), beside what the process held with model and rows ready. A reader that holds a matrix of
rows by rows would add 6 times as much at 50,000 rows as at 20,000.

    python benchmarks/certify_speed.py [--rows 20000 50000] [--columns 10] [--budget 120]

Prints a Markdown table and appends its rows to benchmarks/results/certify_speed.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from process_memory import peak_mb
from run_record import append_rows, run_head

import jkoflow.certify as readers
from jkoflow import JKOFlow
from jkoflow.certify import Evidence, certify, kl
from jkoflow.certify.rows import evidence_from
from jkoflow.data import read_table
from jkoflow.runtime import seed_stream
from jkoflow.storage import to_json

RESULTS = Path(__file__).parent / "results" / "certify_speed.jsonl"
FIT_ROWS, COMPONENTS = 50_000, 5
BEND, FREQUENCY = 1.0, 2.5
RETURNING = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def draw(n_rows: int, columns: int, *, part: int) -> torch.Tensor:
    """Rows of a bent mixture of normal laws, float64; other parts are independent of each other.

    Each column is shifted by a sine of the one before, so that no mixture of few components is the law.
    """
    shape = seed_stream(0, "certify speed: law")
    centres = 2.5 * torch.randn(COMPONENTS, columns, generator=shape, dtype=torch.float64)
    factors = torch.randn(COMPONENTS, columns, columns, generator=shape, dtype=torch.float64) / columns**0.5
    source = seed_stream(0, "certify speed: rows", part)
    which = torch.randint(COMPONENTS, (n_rows,), generator=source)
    noise = torch.randn(n_rows, columns, generator=source, dtype=torch.float64)
    x = centres[which] + torch.einsum("nij,nj->ni", factors[which], noise)
    return torch.cat([x[:, :1], x[:, 1:] + BEND * torch.sin(FREQUENCY * x[:, :-1])], dim=1)


def measured(model: JKOFlow, n_rows: int) -> dict[str, Any]:
    """One certificate: seconds by reader, peak memory, verdicts."""
    table = read_table(draw(n_rows, model.n_features_in_, part=1).numpy())
    evidence = evidence_from(model.model_, table, stream="certify")
    seconds, peaks = dict[str, float](), dict[str, float]()
    with timed_readers(seconds, peaks):
        before, started, cpu = peak_mb(), time.perf_counter(), time.process_time()
        certificates = certify(evidence)
        wall, spent = time.perf_counter() - started, time.process_time() - cpu
    return {
        "rows": n_rows,
        "blocks": len(model.flow_),
        "wall_seconds": wall,
        "cpu_seconds": spent,
        "cpu_seconds_by_reader": seconds,
        "peak_mb_after_reader": peaks,
        "before_mb": before,
        "peak_mb": peak_mb(),
        "kl": to_json(certificates.to_dict()["kl"]),
        "claims": len(certificates.claims),
        "failed": [claim.claim for claim in certificates.failed],
    }


@contextmanager
def timed_readers(seconds: dict[str, float], peaks: dict[str, float]) -> Iterator[None]:
    """Note CPU seconds and the peak of memory so far of each reader that is called in the block."""

    def timed(name: str, reader: Callable[[Evidence], Any]) -> Callable[[Evidence], Any]:
        def run(evidence: Evidence) -> Any:
            started = time.process_time()
            try:
                return reader(evidence)
            finally:
                seconds[name] = time.process_time() - started
                peaks[name] = peak_mb()

        return run

    timed_all = {name: timed(name, reader) for name, reader in readers._READERS.items()}
    with (
        mock.patch.dict(readers._READERS, timed_all),
        mock.patch.object(kl, "bracket", timed("KL bracket", kl.bracket)),
    ):
        yield


def fitted(folder: Path, columns: int, budget: float, rows: int) -> None:
    """The model that all certificates are of, in `folder`."""
    x = draw(rows, columns, part=0).numpy()
    JKOFlow(budget=budget, random_state=0).fit(x).save(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 50_000])
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--budget", type=float, default=120.0, help="CPU-seconds of the fit")
    parser.add_argument("--fit-rows", type=int, default=FIT_ROWS)
    parser.add_argument("--model", type=Path, help="a model folder, in place of a fit")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--one", action="store_true", help="certify --model here and print one row as JSON")
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measured(JKOFlow.load(options.model), options.rows[0])))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or Path(folder, "model")
        if options.model is None:
            fitted(model, options.columns, options.budget, options.fit_rows)
        rows = [one_process(model, n_rows) for n_rows in options.rows]
    run = run_head(
        threads=1,
        columns=options.columns,
        budget=None if options.model else options.budget,
        fit_rows=None if options.model else options.fit_rows,
    )
    append_rows(options.results, ({**run, **row} for row in rows))
    blocks = f"{options.columns} columns, {rows[0]['blocks']} blocks"
    print(f"run {run['run']}, {blocks}, torch {torch.__version__}\n")
    print("\n".join(markdown(rows)))


def one_process(model: Path, n_rows: int) -> dict[str, Any]:
    """`measured`, in a process of its own."""
    command = [sys.executable, __file__, "--one", f"--model={model}", f"--rows={n_rows}"]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=RETURNING).stdout
    return dict(json.loads(found))


def markdown(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The table that is printed: a line for each reader, then the sums."""
    names = list(rows[0]["cpu_seconds_by_reader"])
    lines = [
        [f"{name}, CPU s", *(f"{row['cpu_seconds_by_reader'][name]:.1f}" for row in rows)] for name in names
    ]
    lines += [
        [label, *(f"{row[key]:,.1f}" for row in rows)]
        for label, key in (
            ("all, CPU s", "cpu_seconds"),
            ("all, s", "wall_seconds"),
            ("memory before, MB", "before_mb"),
            ("peak of memory, MB", "peak_mb"),
        )
    ]
    heads = ["held-out rows", *(f"{row['rows']:,}" for row in rows)]
    return [f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *lines)]


if __name__ == "__main__":
    main()

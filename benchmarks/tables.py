"""Real tables: test NLL of the default fit beside Gaussians and a mixture, on the same split and run.

Preparation, the same rows and noise for all: exact duplicates are dropped before the split; a column in
which fewer than 5 % of the values are distinct, or one value holds more than 1 %, gets uniform noise of its
measuring step; a random 10 % are test rows; columns are standardised with training statistics. Differences
are paired per test row. Nothing is set by hand for any table.

    python benchmarks/tables.py --data-dir DATA [--only NAME ...]

Each table appends a row to benchmarks/results/tables.jsonl; a file that is missing is recorded as skipped.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from run_record import append_rows, mean_with_error, run_head
from sklearn.mixture import GaussianMixture

import jkoflow
from jkoflow.data.dequantise import measure
from jkoflow.data.distinct import repeated_rows

Reals = npt.NDArray[np.float64]
RESULTS = Path(__file__).parent / "results" / "tables.jsonl"
TEST_SHARE = 0.1
MIXTURE_COMPONENTS = 30
MIXTURE_MIN_ROWS = 5000


def load_tables(folder: Path) -> Iterator[tuple[str, Callable[[], Reals] | None, str]]:
    """Name, loader (None where the file is missing) and file of each table."""
    for name, file, key in (
        ("protein", "uci_protein.npz", "x"),
        ("miniboone", "miniboone_maf_first1523.npz", "x"),
    ):
        yield name, _loader(folder / file, key), file
    file = "posteriordb_draws.npz"
    path = folder / file
    keys = np.load(path, allow_pickle=False).files if path.exists() else ["posteriordb"]
    for key in keys:
        yield f"posterior {key}", _loader(path, key), file


def _loader(path: Path, key: str) -> Callable[[], Reals] | None:
    if not path.exists():
        return None
    return lambda: np.asarray(np.load(path, allow_pickle=False)[key], dtype=np.float64)


def prepare(rows: Reals, rng: np.random.Generator) -> tuple[Reals, Reals]:
    """Training and test rows, standardised with training statistics."""
    rows = off_grid(distinct_rows(rows), rng)
    order = rng.permutation(len(rows))
    n_test = round(TEST_SHARE * len(rows))
    test, train = rows[order[:n_test]], rows[order[n_test:]]
    location, scale = train.mean(axis=0), train.std(axis=0)
    return (train - location) / scale, (test - location) / scale


def distinct_rows(rows: Reals) -> Reals:
    """Each row once, where it came first."""
    return rows[~repeated_rows(rows)]


def off_grid(rows: Reals, rng: np.random.Generator) -> Reals:
    """The rows, with noise of its step in each column of few distinct values or with a frequent one."""
    rows = rows.copy()
    for column in rows.T:
        distinct, counts = np.unique(column, return_counts=True)
        if len(distinct) < 0.05 * len(rows) or counts.max() > 0.01 * len(rows):
            measured = measure(column)
            step = measured.step if measured is not None else float(np.diff(distinct).min())
            column += step * rng.uniform(-0.5, 0.5, len(rows))
    return rows


def gaussian_nll(train: Reals, test: Reals) -> Reals:
    """NLL of each test row under the full-covariance Gaussian, nats."""
    centred = test - train.mean(axis=0)
    covariance = np.cov(train.T, bias=True)
    quadratic = np.einsum("ij,ij->i", centred, np.linalg.solve(covariance, centred.T).T)
    return np.asarray(
        0.5 * (quadratic + np.linalg.slogdet(covariance)[1] + train.shape[1] * math.log(2 * math.pi))
    )


def compare(name: str, rows: Reals, *, seed: int) -> dict[str, Any]:
    """Fit all contenders on one split; NLL in nats per row, standardised columns."""
    train, test = prepare(rows, np.random.default_rng(seed))
    wall, cpu = time.perf_counter(), time.process_time()
    model = jkoflow.JKOFlow(random_state=seed).fit(train)
    spent = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    ours = -model.score_samples(test)
    gaussian = gaussian_nll(train, test)
    row: dict[str, Any] = {
        "name": name,
        "outcome": "done",
        "rows": len(train),
        "test_rows": len(test),
        "columns": train.shape[1],
        "blocks": len(model.flow_),
        **spent,
        **mean_with_error("nll", ours),
        **mean_with_error("gaussian_nll", gaussian),
        **mean_with_error("ours_minus_gaussian", ours - gaussian),
        "round_trip_error": model.results_["round_trip_error"],
    }
    if len(train) >= MIXTURE_MIN_ROWS:
        cpu = time.process_time()
        mixture = GaussianMixture(MIXTURE_COMPONENTS, random_state=seed).fit(train)
        theirs = -mixture.score_samples(test)
        row |= {"mixture_cpu_seconds": time.process_time() - cpu, **mean_with_error("mixture_nll", theirs)}
        row |= mean_with_error("ours_minus_mixture", ours - theirs)
    return row


def main() -> None:
    """Run the tables and append their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("JKOFLOW_DATA"))
    parser.add_argument("--only", nargs="*", help="names of tables to run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    run = run_head(threads=options.threads, seed=options.seed)
    folder = Path(options.data_dir) if options.data_dir else Path("data not given")
    for name, load, file in load_tables(folder):
        if options.only and name not in options.only:
            continue
        row = {**run, "name": name, "outcome": "skipped", "missing": file}
        if load is not None:
            row = {**run, **compare(name, load(), seed=options.seed)}
        append_rows(RESULTS, [row])
        print(_line(row), flush=True)


def _line(row: dict[str, Any]) -> str:
    if row["outcome"] == "skipped":
        return f"{row['name']:38} skipped: {row['missing']} is missing; pass --data-dir"
    mixture = f"{row['mixture_nll']:9.3f}" if "mixture_nll" in row else "        -"
    return (
        f"{row['name']:38} {row['rows']:6} x {row['columns']:2}  NLL {row['nll']:8.3f}  Gaussian "
        f"{row['gaussian_nll']:8.3f}  difference {row['ours_minus_gaussian']:8.3f} +- "
        f"{row['ours_minus_gaussian_se']:.3f}  mixture {mixture}  {row['cpu_seconds']:5.0f} CPU s"
    )


if __name__ == "__main__":
    main()

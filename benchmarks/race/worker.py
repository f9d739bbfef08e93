"""One run in a process of its own, on one thread: fit, then likelihood, then what else is measured.

    python benchmarks/race/worker.py PROBLEM.npz CONTENDER BUDGET SEED OUT

Writes OUT.npy, the NLL of each test row, and OUT.json, the row's numbers. The test rows are read after
the fit.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contenders import CONTENDERS
from density import Density, Reals

sys.path.append(str(Path(__file__).parents[1]))

from process_memory import peak_mb
from run_record import mean_with_error

SAMPLED_ROWS = 1000
MANY_COLUMNS, SAMPLED_ROWS_OF_MANY = 200, 100
"""An autoregressive flow passes all rows once a column when it is inverted."""
MEASURING_ERRORS = (ArithmeticError, AssertionError, RuntimeError, ValueError)


class NonFiniteError(ArithmeticError):
    """A density whose logarithm is not a number at some test row."""


def measure(problem: Path, contender: str, *, budget: float, seed: int, out: Path) -> dict[str, Any]:
    """Fit and measure; the numbers of the row."""
    entry = CONTENDERS[contender]
    module = importlib.import_module(f"contenders.{entry.module or contender}")
    with np.load(problem, allow_pickle=False) as archive:
        train = archive["train"]
    before, start = peak_mb(), time.process_time()
    density: Density = module.fit(train, budget=budget, seed=seed, **entry.options)
    row: dict[str, Any] = {
        "settings_tried": module.SETTINGS_TRIED,
        "train_rows": len(train),
        "columns": train.shape[1],
        "fit_cpu_seconds": time.process_time() - start,
        "peak_mb": peak_mb() - before,
    }
    with np.load(problem, allow_pickle=False) as archive:
        test, truth = archive["test"], archive.get("truth")
        log_scale, is_grey = archive.get("log_scale"), bool(archive.get("is_grey", False))
    start = time.process_time()
    nll = -density.log_prob(test)
    spent = max(time.process_time() - start, 1e-6)
    row |= {"score_cpu_seconds": spent, "log_prob_rows_per_second": len(test) / spent, **judged(nll, truth)}
    if log_scale is not None:
        row |= in_source_unit(nll, log_scale, test.shape[1], is_grey=is_grey)
    np.save(out.with_suffix(".npy"), nll)
    return row | measured_beside(density, test, seed)


def judged(nll: Reals, truth: Reals | None) -> dict[str, Any]:
    """Mean NLL of test rows and, where the truth's log-density is known, the KL to it; nats.

    Raises:
        NonFiniteError: Some row's NLL is infinite or no number.
    """
    if not np.isfinite(nll).all():
        raise NonFiniteError(f"log_prob is not finite at {(~np.isfinite(nll)).sum()} of {len(nll)} test rows")
    row = {"test_rows": len(nll), **mean_with_error("nll", nll)}
    return row if truth is None else row | mean_with_error("kl", nll + truth)


def in_source_unit(nll: Reals, log_scale: Reals, columns: int, *, is_grey: bool) -> dict[str, float]:
    """What leads from the mean NLL to the source's unit, nats; bits per dimension where it is grey levels."""
    row = {"log_scale_nats": float(log_scale.mean())}
    if is_grey:
        row |= mean_with_error("bits_per_dimension", (nll + log_scale) / (columns * math.log(2)))
    return row


def measured_beside(density: Density, test: Reals, seed: int) -> dict[str, Any]:
    """Speed, round trip, velocity evaluations, check of the trace integral, and what of it failed."""
    row: dict[str, Any] = {"not_measured": {}}

    def attempt(key: str, compute: Callable[[], Any]) -> None:
        try:
            row[key] = compute()
        except MEASURING_ERRORS as error:
            row[key] = None
            row["not_measured"][key] = f"{type(error).__name__}: {error}"

    n = SAMPLED_ROWS if test.shape[1] < MANY_COLUMNS else SAMPLED_ROWS_OF_MANY
    attempt("sample_rows_per_second", lambda: _sampling_speed(density, n, seed))
    attempt("round_trip_error", lambda: density.round_trip_error(test[:n]))
    attempt("velocity_evaluations", lambda: density.velocity_evaluations)
    attempt("log_prob_check_nats", lambda: density.log_prob_check(test))
    return row


def _sampling_speed(density: Density, n: int, seed: int) -> float:
    start = time.process_time()
    density.sample(n, seed)
    return n / max(time.process_time() - start, 1e-6)


def main() -> None:
    """Measure and write."""
    problem, contender, budget, seed, out = sys.argv[1:]
    torch.set_num_threads(1)
    row = measure(Path(problem), contender, budget=float(budget), seed=int(seed), out=Path(out))
    Path(out).with_suffix(".json").write_text(json.dumps(row), encoding="utf-8")


if __name__ == "__main__":
    main()

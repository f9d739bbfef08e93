"""The race: problems × contenders × budgets of CPU-seconds, each run a process of its own on one thread.

    python benchmarks/race/run.py --data-dir DIR [--full | --problems ...] [--contenders ...]
                                  [--budgets 30 100 300] [--jobs 2] [--seed 0] [--seeds 0 1 2]
    python benchmarks/race/run.py --data-dir DIR --resume RUN [--jobs 2]
    python benchmarks/race/run.py --data-dir DIR --rivals-of RUN ...

Smaller budgets come first, and contenders of the same problem and budget run near each other in time. Every
run appends a row to benchmarks/results/race.jsonl, failures and what was skipped too; the NLLs of its test
rows go to runs/race/RUN. When ours and a contender have finished all folds of a problem at a budget, a row
with the paired difference follows. --seed splits the rows; with --seeds every contender is fitted once with
each of them on problems that are cut in folds and on laws in the plane, with the first alone on the others.
What the run has a row for is not run again; an interrupted race finishes the runs that it had begun. With
--rivals-of, what the other contenders did in an earlier run on the same machine, seed and rows is taken
over, and their rows say from where.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from contenders import CONTENDERS, Entry
from contenders import STANDARD as STANDARD_CONTENDERS
from problems import FULL, PLANAR, STANDARD, TRAIN_DRAWS, MissingFileError, Problem, prepare
from record import Record, Task

sys.path.append(str(Path(__file__).parents[1]))

from run_record import run_head

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "race.jsonl"
WORKER = Path(__file__).with_name("worker.py")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
BUDGET_FACTOR, SCORING_LIMIT = 4.0, 900.0
"""A run may take this many times its budget and this many seconds for the scoring, of wall time."""


def write_problem(problem: Problem, folder: Path) -> Path:
    """The problem as a file that workers read; the truth's log-density at the test rows is part of it."""
    file = folder / f"{problem.name}-fold{problem.fold}.npz"
    arrays = {"train": problem.train, "test": problem.test}
    if problem.log_density is not None:
        arrays["truth"] = problem.log_density(problem.test)
    if problem.log_scale is not None:
        arrays |= {"log_scale": problem.log_scale, "is_grey": np.array(problem.is_grey)}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(file, **arrays)
    return file


def tasks_of(
    folds: Mapping[str, int],
    contenders: Sequence[str],
    budgets: Sequence[float],
    seeds: Sequence[int] | None = None,
) -> list[Task]:
    """All runs, in the order in which they start."""
    return [
        Task(problem, fold, contender, budget if CONTENDERS[contender].budgeted else None, seed)
        for index, budget in enumerate(budgets)
        for problem, count in folds.items()
        for fold in range(count)
        for seed in seeds_of(problem, count, seeds)
        for contender in contenders
        if index == 0 or CONTENDERS[contender].budgeted
    ]


def seeds_of(problem: str, folds: int, seeds: Sequence[int] | None) -> Sequence[int | None]:
    """Seeds of the fits of a problem; None is the race's own."""
    if seeds is None:
        return [None]
    return seeds if folds > 1 or problem in PLANAR else seeds[:1]


def upper_hours(tasks: Sequence[Task], jobs: int) -> float:
    """How long the race may take, generously; not the time limits."""
    seconds = sum(_seconds(CONTENDERS[task.contender], task.budget) for task in tasks)
    return seconds / jobs / 3600


def _seconds(entry: Entry, budget: float | None) -> float:
    return (entry.fit_seconds if budget is None else budget) + entry.score_seconds


def run_task(
    task: Task, *, folds: int, longest: float, folder: Path, seed: int, seeds: int = 1
) -> dict[str, Any]:
    """The row of one run, whatever becomes of it; of `folds` folds and `seeds` seeds of the fit."""
    row = {**asdict(task), "folds": folds, "seeds": seeds}
    seed = seed if task.fit_seed is None else task.fit_seed
    missing = CONTENDERS[task.contender].package
    if missing is not None and importlib.util.find_spec(missing) is None:
        return {**row, "outcome": "skipped", "missing": f"package {missing}"}
    budget = longest if task.budget is None else task.budget
    problem, out = folder / "problems" / f"{task.problem}-fold{task.fold}.npz", folder / task.name
    arguments = [str(problem), task.contender, str(budget), str(seed), str(out)]
    limit = BUDGET_FACTOR * budget + SCORING_LIMIT
    try:
        subprocess.run(
            [sys.executable, str(WORKER), *arguments],
            env={**os.environ, **ONE_THREAD},
            check=True,
            capture_output=True,
            text=True,
            timeout=limit,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        return {**row, "outcome": "failed", "error": f"not done after {limit:.0f} seconds"}
    except subprocess.CalledProcessError as failure:
        told = failure.stderr.strip().splitlines()
        return {**row, "outcome": "failed", "error": told[-1] if told else f"exit {failure.returncode}"}
    return {**row, "outcome": "done", **json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))}


def race(plan: Mapping[str, Any], record: Record, *, data: Path, jobs: int) -> None:
    """Run what the record has no row for."""
    folds = _prepare_all(plan, record, data)
    seeds = plan.get("seeds")
    tasks = tasks_of(folds, plan["contenders"], plan["budgets"], seeds)
    if plan.get("rivals_of") is not None:
        taken = record.take_rivals(plan["rivals_of"], tasks)
        print(f"{taken} runs of other contenders taken over from {plan['rivals_of']}", flush=True)
    tasks = [task for task in tasks if not record.has(task)]
    print(f"{len(tasks)} runs, about {upper_hours(tasks, jobs):.1f} hours at most", flush=True)
    lock = threading.Lock()

    def one(task: Task) -> None:
        row = run_task(
            task,
            folds=folds[task.problem],
            longest=max(plan["budgets"]),
            folder=record.folder,
            seed=plan["seed"],
            seeds=len(seeds_of(task.problem, folds[task.problem], seeds)),
        )
        with lock:
            record.append("run", row)
            record.append_pairs()
            print(_line(row), flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(one, task) for task in tasks]
        try:
            for future in futures:
                future.result()
        except BaseException:  # an interrupt too: what runs is finished and recorded, the rest is not begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _prepare_all(plan: Mapping[str, Any], record: Record, data: Path) -> dict[str, int]:
    """The number of folds of each problem whose file is there; rows for those that are skipped."""
    folds = {}
    for name in plan["problems"]:
        try:
            problems = prepare(name, data, plan["seed"], plan.get("draws", TRAIN_DRAWS))
        except MissingFileError as missing:
            skipped = Task(name, 0, "all", None)
            if not record.has(skipped):
                record.append("run", {**asdict(skipped), "outcome": "skipped", "missing": missing.filename})
            print(f"{name}: skipped, {missing.filename} is missing in --data-dir", flush=True)
            continue
        for problem in problems:
            write_problem(problem, record.folder / "problems")
        folds[name] = len(problems)
    return folds


def _line(row: Mapping[str, Any]) -> str:
    budget = "no budget" if row["budget"] is None else f"{row['budget']:g} s"
    seed = "" if row.get("fit_seed") is None else f" seed {row['fit_seed']}"
    told = f"{row['problem']} {row['fold']} {row['contender']:16} {budget:>9}{seed}: "
    if row["outcome"] != "done":
        return told + f"{row['outcome']}, {row.get('error') or row.get('missing')}"
    kl = f", KL {row['kl']:.3f}" if "kl" in row else ""
    spent = f"{row['fit_cpu_seconds']:.0f} + {row['score_cpu_seconds']:.0f} CPU s"
    return told + f"NLL {row['nll']:.3f} ± {row['nll_se']:.3f}{kl}, {spent}"


def _opened(options: argparse.Namespace) -> tuple[dict[str, Any], Record]:
    """The plan and the record of a new run, or of the one to go on with."""
    head = run_head(run=options.resume)
    folder = options.runs / head["run"]
    file = folder / "plan.json"
    if options.resume:
        if not file.exists():
            raise SystemExit(f"--resume: expected a run under {options.runs}, got {options.resume!r}")
        plan = json.loads(file.read_text(encoding="utf-8"))
    else:
        plan = {
            "problems": FULL if options.full else options.problems,
            "contenders": options.contenders,
            "budgets": sorted(options.budgets),
            "seed": options.seed,
            "seeds": options.seeds,
            "rivals_of": options.rivals_of,
            "draws": options.draws,
        }
        folder.mkdir(parents=True)
        file.write_text(json.dumps(plan), encoding="utf-8")
    return plan, Record(options.results, folder, {**head, "seed": plan["seed"]})


def main(arguments: Sequence[str] | None = None) -> None:
    """Race."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("JKOFLOW_DATA", "data not given"))
    parser.add_argument("--problems", nargs="+", choices=FULL, default=STANDARD, metavar="PROBLEM")
    parser.add_argument("--full", action="store_true", help=f"all problems: {', '.join(FULL)}")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=STANDARD_CONTENDERS)
    parser.add_argument("--budgets", nargs="+", type=float, default=[30.0, 100.0, 300.0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the rows, and of the fits without --seeds")
    parser.add_argument("--seeds", nargs="+", type=int, help="of the fits, where they are repeated")
    parser.add_argument("--draws", type=int, default=TRAIN_DRAWS, help="of each law whose density is known")
    parser.add_argument("--resume", metavar="RUN", help="go on with a run; its plan is kept")
    parser.add_argument("--rivals-of", metavar="RUN", help="take over what other contenders did in that run")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "race")
    options = parser.parse_args(arguments)
    plan, record = _opened(options)
    print(f"run {record.head['run']}: {len(plan['problems'])} problems, {', '.join(plan['contenders'])}")
    race(plan, record, data=Path(options.data_dir), jobs=options.jobs)


if __name__ == "__main__":
    main()

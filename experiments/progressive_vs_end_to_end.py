r"""Block by block or all blocks at once: the same stack, the same CPU-seconds, shapes, a table and images.

    jko         block n on E[V(T)] - E[log det] + E|x - T|²/(2 gamma_n), the blocks before it frozen
    started     the same, each block started by regression on the Ornstein-Uhlenbeck path of its step
    end_to_end  E[V(T_N o ... o T_1)] - sum_n E[log det T_n], all blocks together

Each fit is a process of its own, so that its peak memory is its own. Problems and distance: see
`progressive_problems`.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, section 3.1; FFJORD (Grathwohl et al. 2019, arXiv
1810.01367) for the third objective.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from progressive_problems import FILES, PROBLEMS, SHAPES, Problem, frechet, make_problem
from publish import COLOURS, STYLE, markdown_table, parser, publish
from torch import Tensor

from jkoflow.blocks.ode.family import NetworkSettings, NeuralODEFamily
from jkoflow.flow import Flow
from jkoflow.flow.likelihood import log_prob, standard_error
from jkoflow.flow.sampling import sample
from jkoflow.fold import Fold, proximal_fold
from jkoflow.functionals import KL
from jkoflow.journal import Journal, Solution
from jkoflow.laws import Gaussian, StandardNormal
from jkoflow.methods.end_to_end import train_end_to_end
from jkoflow.particles import Particles
from jkoflow.recipe import DescentSettings, UpdateRules
from jkoflow.runtime import Runtime, seed_stream
from jkoflow.schedule import resolve_schedule
from jkoflow.steps import State, Step, StepSolver, initial_state
from jkoflow.steps.solvers import ProximalSolver, StartedSolver

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from process_memory import peak_mb

NAME = "progressive_vs_end_to_end"
METHODS = {
    "jko": "progressive, proximal objective",
    "started": "progressive, started blocks",
    "end_to_end": "end to end",
}
BLOCKS, WIDTH, PHASE, DIVERGENCE = 4, 64, 2.5, "auto"
REHEARSALS, MOST_UPDATES = (60, 240), 20_000
"""Updates of two short fits, which look at held-out rows equally often: the difference is updates alone."""
SHARE = 0.9
"""Of the budget that goes into updates; the rest is for pushing and judging."""
Stop = Callable[[int], bool]
"""Asked with the number of a block whether its time is up; all blocks together are number `BLOCKS`."""


def fit(method: str, state: State, *, budget: float, runtime: Runtime) -> tuple[Flow, dict[str, float]]:
    """A flow by `method` within `budget` CPU-seconds; its CPU-seconds and the updates given to each block.

    The updates are those that the budget has time for by a rehearsal, which is thrown away and not counted,
    so that the rate falls to its end within the budget.
    """
    schedule = resolve_schedule(
        "auto", max_blocks=BLOCKS, particles=state.train, generator=runtime.stream("schedule")
    )
    gammas = schedule.gammas
    train = train_all if method == "end_to_end" else train_in_turn
    rehearsed = gammas if method == "end_to_end" else gammas[:1]
    seconds = []
    for updates in (REHEARSALS[0], *REHEARSALS):  # the first one also loads what a process needs only once
        before = time.process_time()
        train(method, state, rehearsed, updates, runtime, lambda number: False)
        seconds.append(time.process_time() - before)
    few, many = REHEARSALS
    an_update = max((seconds[2] - seconds[1]) / (many - few), seconds[2] / (10 * many))
    beside = max(0.0, seconds[1] - few * an_update)
    share = SHARE * budget * len(rehearsed) / len(gammas)
    updates = int(min(max((share - beside) / an_update, few), MOST_UPDATES))
    started = time.process_time()

    def stop(number: int) -> bool:
        return time.process_time() - started > budget * number / len(gammas)

    flow = train(method, state, gammas, updates, runtime, stop)
    return flow, {"cpu_seconds": time.process_time() - started, "updates": updates}


def train_in_turn(
    method: str, state: State, gammas: Sequence[float], updates: int, runtime: Runtime, stop: Stop
) -> Flow:
    """Block after block, each on the particles that those before it have pushed."""
    solver = solver_of(method, state.flow.dim, len(state.train), updates)

    def timed(step: Step) -> Solution:
        return solver(replace(step, stop=lambda phase, done: stop(step.number)))

    return proximal_fold(state, gammas, Fold(timed, runtime, Journal())).flow


def family_of(dim: int) -> NeuralODEFamily:
    """The velocity network of every block of every method."""
    return NeuralODEFamily(network=NetworkSettings(width=WIDTH, frequency_scale=PHASE / math.sqrt(dim)))


def solver_of(method: str, dim: int, rows: int, updates: int) -> StepSolver:
    """What finds one block, of the same network and solver steps for all methods."""
    family, rules = family_of(dim), UpdateRules()
    if method == "started":
        start, finish = rules.regression(rows, updates), rules.finish(rows, updates)
        return StartedSolver(family, start, finish, family.variants[0], DIVERGENCE)
    descent = DescentSettings(updates, rules.batch(rows), rules.objective_rate)
    return ProximalSolver(family, descent, DIVERGENCE, steps=1)


def train_all(
    method: str, state: State, gammas: Sequence[float], updates: int, runtime: Runtime, stop: Stop
) -> Flow:
    """The same stack from its untrained blocks, all of them in every update."""
    del method
    flow, rules = state.flow, UpdateRules()
    for number, gamma in enumerate(gammas, start=1):
        step = Step(number, gamma, state.train, state.validation, state.functional, runtime)
        block = family_of(flow.dim).new(state.train, gamma, generator=step.stream("initial_weights"))
        flow = flow.then(block)
    return train_end_to_end(
        flow,
        step,
        settings=DescentSettings(updates, rules.batch(len(state.train)), rules.end_to_end_rate),
        divergence=DIVERGENCE,
        generator=runtime.stream("end_to_end"),
        stop=lambda done: stop(len(gammas)),
    )[0]


# ── one fit, in a process of its own ──


def measured_fit(file: Path, method: str, *, budget: float, seed: int) -> dict[str, Any]:
    """Fit the rows of `file`: CPU-seconds, peak memory above that of the loaded rows, NLL and samples."""
    with np.load(file, allow_pickle=False) as stored:
        train, validation, test = (torch.as_tensor(stored[key]) for key in ("train", "validation", "test"))
    law = StandardNormal(train.shape[1])
    state = initial_state(KL(law), Particles(train), Particles(validation))
    idle = peak_mb()
    flow, done = fit(method, state, budget=budget, runtime=Runtime(seed))
    done["fit_mb"] = peak_mb() - idle
    nats = -log_prob(flow, test)
    drawn = sample(flow, len(test), seed=seed, like=test)
    return {
        **done,
        "blocks": len(flow),
        "nll_nats": float(nats.mean()),
        "nll_se_nats": standard_error(nats),
        "round_trip_error": float(drawn.error.max()),
        "samples": drawn.x.numpy(),
    }


def fit_apart(problem: Problem, method: str, *, budget: float, seed: int) -> dict[str, Any]:
    """`measured_fit` in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        rows, result = Path(folder) / "rows.npz", Path(folder) / "result.npz"
        np.savez(rows, train=problem.train, validation=problem.validation, test=problem.test)
        options = [f"--budget={budget}", f"--seed={seed}", f"--fit={method}", f"--rows-of={rows}"]
        command = [sys.executable, __file__, *options, f"--result={result}"]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        with np.load(result, allow_pickle=False) as stored:
            return {key: stored[key] if stored[key].ndim else stored[key].item() for key in stored.files}


# ── all fits ──


def compare(
    name: str, problem: Problem, methods: Sequence[str], *, budget: float, seed: int
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """A row for each method, one of real rows and one of a Gaussian; and the samples by method."""
    x = problem.train.double()
    gaussian = Gaussian(x.mean(dim=0), torch.cov(x.T))
    nats = -gaussian.log_prob(problem.test.double())
    drawn = gaussian.sample(len(problem.test), seed_stream(seed, "gaussian"))
    shared = {"problem": name, "outcome": "done", "rows": len(problem.train), "columns": x.shape[1]}
    real = frechet(problem.features, problem.real, problem.test)
    rows = [
        {**shared, "method": "real rows", "nll_nats": problem.truth_nll, "frechet": real},
        {
            **shared,
            "method": "Gaussian",
            "nll_nats": float(nats.mean()),
            "nll_se_nats": standard_error(nats),
            "frechet": frechet(problem.features, drawn, problem.test),
        },
    ]
    samples = {"real rows": problem.test}
    for method in methods:
        done = fit_apart(problem, method, budget=budget, seed=seed)
        samples[method] = torch.as_tensor(done.pop("samples"))
        distance = frechet(problem.features, samples[method], problem.test)
        rows.append({**shared, "method": method, **done, "frechet": distance})
        print(
            f"{name:13} {method:11} NLL {done['nll_nats']:8.3f}  Fréchet {distance:.4f} (real {real:.4f})  "
            f"{done['updates']} updates  {done['cpu_seconds']:.0f} s  {done['fit_mb']:.0f} MB",
            flush=True,
        )
    return rows, samples


def tables(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """All rows of all problems."""
    lines = []
    for row in rows:
        if row["outcome"] == "skipped":
            lines.append([row["problem"], f"skipped: {row['missing']} is missing", *["–"] * 5])
            continue
        error = row.get("nll_se_nats")
        nll = row["nll_nats"]
        unknown = nll is None or math.isnan(nll)
        lines.append(
            [
                row["problem"],
                METHODS.get(row["method"], row["method"]),
                "–" if unknown else f"{nll:.3f}" + ("" if error is None else f" ± {error:.3f}"),
                f"{row['frechet']:.2g}",
                row.get("updates", "–"),
                f"{row['cpu_seconds']:.0f}" if "cpu_seconds" in row else "–",
                f"{row['fit_mb']:.0f}" if "fit_mb" in row else "–",
            ]
        )
    header = ["problem", "method", "held-out NLL, nats", "Fréchet", "updates a block", "CPU s", "peak MB"]
    return {"all": markdown_table(header, lines)}


def draw(samples: dict[str, dict[str, Tensor]]) -> Figure:
    """Held-out rows and samples of the shapes, a row for each."""
    shapes = [name for name in samples if name in SHAPES]
    columns = list(samples[shapes[0]])
    with mpl.rc_context(STYLE):
        size = (2.3 * len(columns), 2.35 * len(shapes))
        figure = Figure(figsize=size, dpi=130, layout="constrained")
        panels = figure.subplots(len(shapes), len(columns), squeeze=False)
        for name, line in zip(shapes, panels, strict=True):
            reach = 1.05 * float(samples[name]["real rows"].abs().max())
            for method, axis in zip(columns, line, strict=True):
                points = samples[name][method][:4000]
                axis.scatter(points[:, 0], points[:, 1], s=0.5, color=COLOURS[0], linewidths=0)
                axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
        for method, axis in zip(columns, panels[0], strict=True):
            axis.set_title(METHODS.get(method, "held-out rows"), fontsize=8)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """All fits, or with `--fit` one of them."""
    options = parser(__doc__)
    options.add_argument("--data-dir", type=Path, default=os.environ.get("JKOFLOW_DATA"))
    options.add_argument("--only", nargs="+", choices=PROBLEMS, default=PROBLEMS)
    options.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options.add_argument("--rows", type=int, default=20_000)
    options.add_argument("--budget", type=float, default=20.0, help="CPU-seconds of one fit")
    options.add_argument("--fit", choices=METHODS, help="one fit alone, of --rows-of into --result")
    options.add_argument("--rows-of", type=Path)
    options.add_argument("--result", type=Path)
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    if given.fit:
        done = measured_fit(given.rows_of, given.fit, budget=given.budget, seed=given.seed)
        np.savez(given.result, **done)
        return
    started = time.process_time()
    folder = Path(given.data_dir) if given.data_dir else None
    rows: list[dict[str, Any]] = []
    samples = {}
    for name in given.only:
        problem = make_problem(name, folder, rows=given.rows, seed=given.seed)
        if problem is None:
            rows.append({"problem": name, "outcome": "skipped", "missing": FILES[name]})
            print(f"{name:13} skipped: {FILES[name]} is missing; pass --data-dir")
            continue
        found, samples[name] = compare(name, problem, given.methods, budget=given.budget, seed=given.seed)
        rows += found
    publish(
        NAME,
        folder=given.folder,
        settings={"budget_cpu_seconds": given.budget, "blocks": BLOCKS, "width": WIDTH, "phase": PHASE},
        rows=rows,
        started=started,
        figure=draw(samples) if set(samples) & set(SHAPES) else None,
        tables=tables(rows),
    )


if __name__ == "__main__":
    main()

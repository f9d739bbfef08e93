"""One training iteration, and rows per second of push, pull and log_prob, beside the published recipe.

Contenders of one table take turns within one process (A B A B ...), each number is a median, and a ratio
compares numbers of one run only. CPU seconds are `time.process_time`.

    python benchmarks/speed/iteration.py [--dims 2 10 64] [--repeats 7] [--threads 1] [--no-onednn]

*Share of the peak*: operations in an update's matrix products over its CPU time, over the same of products of
a hidden layer alone, 128 wide, in the same run.

Prints a Markdown table for each part and appends its rows to benchmarks/results/speed.jsonl.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import torch
from published_recipe import (
    BATCH,
    LEARNING_RATE,
    PublishedBlock,
    PublishedFlow,
    proximal_loss,
    rademacher,
    unit_probes,
)
from torch import Tensor

from jkoflow.blocks import NeuralODEBlock
from jkoflow.blocks.log_det import push_penalised, push_with_log_det_by
from jkoflow.blocks.ode.family import NetworkSettings
from jkoflow.blocks.ode.velocity import MLPVelocity
from jkoflow.blocks.ode.velocity.perceptron import product
from jkoflow.flow import Flow
from jkoflow.flow.likelihood import log_prob
from jkoflow.functionals import KL, ProximalObjective
from jkoflow.laws import StandardNormal
from jkoflow.laws.ornstein_uhlenbeck import ou_angle, ou_path
from jkoflow.particles import Particles
from jkoflow.recipe import DescentSettings
from jkoflow.runtime import Runtime
from jkoflow.steps import Step
from jkoflow.steps.descent import AveragedAdam
from jkoflow.steps.regression import regress

sys.path.append(str(Path(__file__).parents[1]))

from run_record import append_rows, run_head

RESULTS = Path(__file__).parents[1] / "results" / "speed.jsonl"
GAMMA = 0.25
START_UPDATES = 60
"""Regression updates of the block that is pushed, pulled and scored."""
FLOW_BLOCKS = 10
SCORED_ENTRIES = 2**14
"""Rows times columns of one measurement of rows per second."""
BASELINE = "published recipe"
NETWORK = NetworkSettings()
"""Our default network for the proximal objective alone."""
PEAK_PRODUCTS = 20

Job: TypeAlias = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Medians of one contender, seconds per call."""

    cpu: float
    wall: float


def take_turns(jobs: dict[str, Job], *, repeats: int) -> dict[str, Timing]:
    """Each job once to warm up, then all of them in turn, `repeats` times."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    for job in jobs.values():
        job()
    for _ in range(repeats):
        for name, job in jobs.items():
            cpu, wall = time.process_time(), time.perf_counter()
            job()
            spent[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {
        name: Timing(statistics.median(cpu for cpu, _ in each), statistics.median(wall for _, wall in each))
        for name, each in spent.items()
    }


def particles_like_data(n: int, dim: int) -> Tensor:
    """Two Gaussian clusters in standardised units, shape `(n, d)`."""
    generator = torch.Generator().manual_seed(0)
    side = torch.randint(0, 2, (n, 1), generator=generator) * 2 - 1
    return 0.9 * side / dim**0.5 + 0.5 * torch.randn(n, dim, generator=generator)


def new_block(x: Tensor, *, steps: int) -> NeuralODEBlock:
    """A block with the default network, as large as the library makes it."""
    velocity = MLPVelocity(
        dim=x.shape[1], frequency_scale=x.shape[1] ** -0.5, generator=torch.Generator().manual_seed(1)
    )
    velocity.set_reach(x, displacement=ou_angle(GAMMA))
    return NeuralODEBlock(velocity, gamma=GAMMA, steps=steps)


def published_iteration(x: Tensor) -> Job:
    """One update of the published recipe."""
    block, generator = PublishedBlock(x.shape[1]), torch.Generator().manual_seed(2)
    optimiser = torch.optim.Adam(block.parameters(), lr=LEARNING_RATE)

    def job() -> None:
        optimiser.zero_grad()
        proximal_loss(block, x, GAMMA, generator).backward()
        optimiser.step()

    return job


def proximal_iteration(x: Tensor, *, steps: int, divergence: str) -> Job:
    """One update of our proximal objective."""
    block, generator = new_block(x, steps=steps), torch.Generator().manual_seed(2)
    push = push_with_log_det_by(divergence, dim=x.shape[1], generator=generator)
    batch = Particles(x)
    objective = ProximalObjective(KL(StandardNormal(x.shape[1])), GAMMA)
    return _update(block, lambda: objective.terms(block, batch, None, push).total)


def regression_iteration(x: Tensor) -> Job:
    """One update of the regression start."""
    block, generator, angle = new_block(x, steps=1), torch.Generator().manual_seed(2), ou_angle(GAMMA)

    def loss() -> Tensor:
        noise = torch.randn(x.shape, generator=generator)
        moment = torch.rand(len(x), 1, generator=generator)
        position, target = ou_path(x, noise, moment, angle)
        return (block.velocity(position, moment) / angle - target).square().mean()

    return _update(block, loss)


def _update(block: NeuralODEBlock, loss: Callable[[], Tensor]) -> Job:
    """What `descend` does between two checkpoints: Adam, clipped gradients, averaged weights."""
    optimiser = AveragedAdam(block.velocity, DescentSettings(1, 1, LEARNING_RATE))
    return lambda: optimiser.update(loss(), LEARNING_RATE)


def descends_on_determinant(dim: int) -> bool:
    """Whether a descent sees the determinant itself by default, and not one probe of a trace."""
    return push_with_log_det_by("auto", dim=dim, generator=torch.Generator()) is push_penalised


def products(dim: int, n: int, *, stages: int = 1, tangents: int = 0) -> float:
    """Multiplications and additions in the products of an update, forward and backward, of all layers."""
    layers = [dim + 2 * NETWORK.n_frequencies + 2, *[NETWORK.width] * NETWORK.depth, dim]
    return 3 * stages * (1 + tangents) * 2.0 * n * sum(n_in * n_out for n_in, n_out in pairwise(layers))


def peak_of(n: int) -> tuple[Job, float]:
    """Products of a hidden layer and nothing else, and how many operations they are."""
    width = NETWORK.width
    x, weight = torch.ones(n, width), torch.ones(width, width)

    def job() -> None:
        for _ in range(PEAK_PRODUCTS):
            product(x, weight)

    return job, PEAK_PRODUCTS * 2.0 * n * width**2


def iterations(dim: int, n: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Seconds of one update of each contender."""
    x = particles_like_data(n, dim)
    alike, by_default = "proximal, 3 steps, one probe (like for like)", "proximal, as by default"
    start, peak = "regression start", "products of a hidden layer alone"
    peak_job, peak_operations = peak_of(n)
    timings = take_turns(
        {
            BASELINE: published_iteration(x),
            alike: proximal_iteration(x, steps=3, divergence="hutchinson"),
            by_default: proximal_iteration(x, steps=2, divergence="auto"),
            start: regression_iteration(x),
            peak: peak_job,
        },
        repeats=repeats,
    )
    operations = {
        alike: products(dim, n, stages=12, tangents=1),
        by_default: products(dim, n, stages=8, tangents=dim if descends_on_determinant(dim) else 1),
        start: products(dim, n),
        peak: peak_operations,
    }
    for name, timing in timings.items():
        share = operations.get(name, math.nan) / timing.cpu * timings[peak].cpu / peak_operations
        yield {
            "part": "iteration",
            "dim": dim,
            "rows": n,
            "contender": name,
            "cpu_ms": 1e3 * timing.cpu,
            "wall_ms": 1e3 * timing.wall,
            "time_over_published": timing.cpu / timings[BASELINE].cpu,
            "share_of_peak": None if math.isnan(share) else share,
            "peak_gflops": 1e-9 * peak_operations / timings[peak].cpu,
        }


def started_block(dim: int, *, steps: int) -> NeuralODEBlock:
    """A block after a short regression start: what is deployed has been trained."""
    x = particles_like_data(4000, dim)
    block = new_block(x, steps=steps)
    train, validation = Particles(x[:3600]), Particles(x[3600:])
    step = Step(1, GAMMA, train, validation, KL(StandardNormal(dim)), Runtime(3))
    regress(block.velocity, step, DescentSettings(START_UPDATES, 512, 1e-2, checkpoints=1))
    return block


def rates(dim: int, n: int, n_blocks: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Rows per second of push, pull and log_prob."""
    x = particles_like_data(n, dim)
    base, generator = StandardNormal(dim), torch.Generator().manual_seed(4)
    published = PublishedFlow([PublishedBlock(dim)] * n_blocks)
    flows = {steps: Flow(base, [started_block(dim, steps=steps)] * n_blocks) for steps in (1, 3)}
    parts: dict[str, dict[str, Job]] = {
        "push": {BASELINE: lambda: published.push(x)},
        "pull": {BASELINE: lambda: published.pull(x)},
        "log_prob": {
            BASELINE: lambda: published.log_prob(x, [rademacher(x, generator)]),
            "published recipe, all d probes": lambda: published.log_prob(x, unit_probes(x)),
        },
    }
    for steps, flow in flows.items():
        name = f"jkoflow, {steps} step{'s' if steps > 1 else ''}"
        parts["push"][name] = lambda flow=flow: flow.push(x)
        parts["pull"][name] = lambda flow=flow: flow.pull(x)
        parts["log_prob"][name] = lambda flow=flow: log_prob(flow, x)
    for part, jobs in parts.items():
        timings = take_turns(jobs, repeats=repeats)
        for name, timing in timings.items():
            yield {
                "part": part,
                "dim": dim,
                "rows": n,
                "blocks": n_blocks,
                "contender": name,
                "rows_per_second": n / timing.cpu,
                "rate_over_published": timings[BASELINE].cpu / timing.cpu,
            }


def measured(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All rows of one run."""
    for dim in options.dims:
        yield from iterations(dim, options.rows, options.repeats)
    for dim in options.dims if not options.only_iterations else ():
        n = max(1, min(options.rows, SCORED_ENTRIES // dim))
        for n_blocks in (1, FLOW_BLOCKS):
            yield from rates(dim, n, n_blocks, max(1, options.repeats // n_blocks + 1))


def heading(row: dict[str, Any]) -> str:
    """The first two lines of the table that `row` opens."""
    if row["part"] == "iteration":
        update = f"one update, batch {row['rows']}"
        columns = ("d", update, "CPU ms", "wall ms", "time / published", "share of the peak")
    else:
        columns = ("d", "blocks", "what", "contender", "rows per CPU second", "rate / published")
    return f"\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}"


def line(row: dict[str, Any]) -> str:
    """A row as Markdown."""
    if row["part"] == "iteration":
        share = "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.2f}"
        times = f"{row['cpu_ms']:.1f} | {row['wall_ms']:.1f} | {row['time_over_published']:.2f}"
        numbers = f"{times} | {share}"
        return f"| {row['dim']} | {row['contender']} | {numbers} |"
    numbers = f"{row['rows_per_second']:,.0f} | {row['rate_over_published']:.2f}"
    return f"| {row['dim']} | {row['blocks']} | {row['part']} | {row['contender']} | {numbers} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 10, 64])
    parser.add_argument("--rows", type=int, default=BATCH, help="batch of an iteration (default 2000)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only-iterations", action="store_true", help="leave out rows per second")
    parser.add_argument("--no-onednn", action="store_true", help="all matrix products by torch's BLAS")
    parser.add_argument("--note", default="", help="kept with each row, to tell runs apart")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.backends.mkldnn.enabled = not options.no_onednn
    torch.manual_seed(0)
    run = run_head(
        threads=options.threads,
        onednn=not options.no_onednn,
        repeats=options.repeats,
        note=options.note,
    )
    print(f"run {run['run']}, {options.threads} thread(s), torch {torch.__version__}, medians, interleaved")
    opened: set[bool] = set()
    for row in measured(options):
        is_iteration = row["part"] == "iteration"
        if is_iteration not in opened:
            opened.add(is_iteration)
            print(heading(row))
        print(line(row), flush=True)
        append_rows(options.results, [{**run, "outcome": "done", **row}])


if __name__ == "__main__":
    main()

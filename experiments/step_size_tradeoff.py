r"""Blocks, time per block and first-order error against the step size, at equal final KL.

    n(gamma) = least n with KL(p_0 | q_0 of n blocks) <= target
    exact steps:  KL(p_{n+1} | q) <= KL(p_n | q) / (1 + gamma)^2

The contraction of exact steps is Lemma 4.1 from p_{n+1} to p_n, with the first-order condition in the place
of eta, and the log-Sobolev inequality ‖eta‖² >= 2 KL of q = N(0, I). Trained blocks are measured on a law
whose density is known: KL and first-order error eps_n are exact up to the fresh draws of the averages.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (17), (30) and Theorem 4.3.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import torch
from learned import first_order_errors, kl_to_truth, train_on_law
from matplotlib.figure import Figure
from publish import COLOURS, STYLE, markdown_table, parser, publish

from jkoflow.blocks.ode.family import NetworkSettings, NeuralODEFamily
from jkoflow.flow import Flow
from jkoflow.laws import GaussianMixture, StandardNormal
from jkoflow.recipe import DescentSettings
from jkoflow.runtime import seed_stream
from jkoflow.schedule import Schedule
from jkoflow.steps.solvers import ProximalSolver

NAME = "step_size_tradeoff"
LAW = GaussianMixture([0.4, 0.35, 0.25], [[2.2, 0.6], [-0.4, -1.6], [-0.6, 1.4]], stds=[0.6, 0.7, 0.5])
GAMMAS = (0.25, 0.5, 1.0, 2.0, 4.0)
BATCH, RATE, WIDTH = 512, 5e-3, 64
ONE_MORE = 1
"""Blocks beyond those that exact steps need at most."""


def exact_blocks(start: float, target: float, gamma: float) -> int:
    """The most blocks that exact steps of size `gamma` need from KL `start` to KL `target`, nats."""
    return max(1, math.ceil(math.log(start / target) / (2 * math.log1p(gamma))))


def curve(
    gamma: float, blocks: int, *, rows: int, updates: int, seed: int, fresh_rows: int
) -> list[dict[str, Any]]:
    """A row for each of `blocks` steps of one fit: KL after it, its first-order error, CPU-seconds so far."""
    solver = ProximalSolver(
        NeuralODEFamily(network=NetworkSettings(width=WIDTH)), DescentSettings(updates, BATCH, RATE), steps=1
    )
    done = train_on_law(
        LAW, Schedule((gamma,) * blocks), solver, rows=rows, validation_rows=rows // 5, seed=seed
    )
    fresh = LAW.sample(fresh_rows, seed_stream(seed, "fresh rows"))
    found = []
    for n, (step, eps) in enumerate(
        zip(done.steps, first_order_errors(done.flow, LAW, fresh), strict=True), start=1
    ):
        kl, kl_se = kl_to_truth(done.flow.truncated(n), LAW, fresh)
        row = {"gamma": gamma, "seed": seed, "block": n, "kl_nats": kl, "kl_se_nats": kl_se, "eps": eps}
        found.append({**row, "cpu_seconds": step["cpu_seconds_so_far"]})
    return found


def reached(rows: Sequence[dict[str, Any]], gamma: float, seed: int, target: float) -> list[dict[str, Any]]:
    """The steps of one fit up to the first at which the KL is at most `target`; none where it never is."""
    steps = [row for row in rows if row["gamma"] == gamma and row["seed"] == seed]
    for index, row in enumerate(steps):
        if row["kl_nats"] <= target:
            return steps[: index + 1]
    return []


def tables(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """By step size, over seeds: blocks, time and first-order errors up to the target."""
    start, target = rows[0]["kl_start_nats"], rows[0]["kl_target_nats"]
    lines = []
    for gamma in sorted({row["gamma"] for row in rows}):
        fits = [reached(rows, gamma, seed, target) for seed in sorted({row["seed"] for row in rows})]
        line: list[Any] = [gamma, exact_blocks(start, target, gamma)]
        if all(fits):
            errors = [math.sqrt(sum(row["eps"] ** 2 for row in fit) / len(fit)) for fit in fits]
            line += [
                "–".join(str(n) for n in sorted({len(fit) for fit in fits})),
                _range([fit[-1]["cpu_seconds"] / len(fit) for fit in fits]),
                _range([fit[-1]["cpu_seconds"] for fit in fits]),
                _range([fit[0]["eps"] for fit in fits]),
                _range(errors),
                _range([gamma * error for error in errors]),
                _range([fit[-1]["kl_nats"] for fit in fits]),
            ]
        else:
            line += ["not reached", *["–"] * 6]
        lines.append(line)
    header = ["γ", "blocks, exact steps at most", "blocks", "CPU s a block", "CPU s"]
    return {"reached": markdown_table([*header, "ε₁", "ε, all blocks", "γ ε", "KL, nats"], lines)}


def _range(values: Sequence[float]) -> str:
    low, high = (f"{value:.3g}" for value in (min(values), max(values)))
    return low if low == high else f"{low}–{high}"


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """KL against blocks and against time, and first-order errors by step size."""
    start, target = rows[0]["kl_start_nats"], rows[0]["kl_target_nats"]
    gammas, first_seed = sorted({row["gamma"] for row in rows}), rows[0]["seed"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.8, 3.6), dpi=130, layout="constrained")
        by_block, by_time, errors = figure.subplots(1, 3)
        for gamma, colour in zip(gammas, COLOURS, strict=False):
            for seed in sorted({row["seed"] for row in rows}):
                steps = [row for row in rows if row["gamma"] == gamma and row["seed"] == seed]
                kl = [start, *(row["kl_nats"] for row in steps)]
                label = f"γ = {gamma:g}" if seed == first_seed else None
                by_block.plot(range(len(kl)), kl, "o-", ms=3.5, lw=1.2, color=colour, label=label)
                by_time.plot(
                    [0, *(row["cpu_seconds"] for row in steps)], kl, "o-", ms=3.5, lw=1.2, color=colour
                )
                errors.plot([gamma] * len(steps), [row["eps"] for row in steps], "o", ms=4, color=colour)
            bound = [start / (1 + gamma) ** (2 * n) for n in range(len(kl))]
            by_block.plot(range(len(kl)), bound, ":", lw=1, color=colour)
        for axis in (by_block, by_time):
            axis.axhline(target, color="black", lw=0.8)
            axis.set(yscale="log", ylim=(target / 8, 1.5 * start))
        by_block.xaxis.get_major_locator().set_params(integer=True)
        by_block.set(title="KL, nats; dotted: exact steps, at most", xlabel="blocks")
        by_time.set(title="KL, nats", xlabel="CPU-seconds")
        errors.set(title="ε of each block", xlabel="γ", xscale="log", ylim=(0, None))
        errors.set_xticks(gammas, [f"{gamma:g}" for gamma in gammas])
        errors.minorticks_off()
        by_block.legend(loc="upper right")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, publish."""
    options = parser(__doc__)
    options.add_argument("--gammas", type=float, nargs="+", default=GAMMAS)
    options.add_argument("--target", type=float, default=0.02, help="KL to reach, nats")
    options.add_argument("--rows", type=int, default=20_000)
    options.add_argument("--updates", type=int, default=250)
    options.add_argument("--repeats", type=int, default=1)
    options.add_argument("--fresh-rows", type=int, default=20_000)
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    started = time.process_time()
    fresh = LAW.sample(given.fresh_rows, seed_stream(given.seed, "fresh rows"))
    start, _ = kl_to_truth(Flow(StandardNormal(LAW.dim)), LAW, fresh)
    rows = []
    for seed in range(given.seed, given.seed + given.repeats):
        for gamma in given.gammas:
            blocks = exact_blocks(start, given.target, gamma) + ONE_MORE
            sizes = {"rows": given.rows, "updates": given.updates, "fresh_rows": given.fresh_rows}
            for row in curve(gamma, blocks, seed=seed, **sizes):
                rows.append({**row, "kl_start_nats": start, "kl_target_nats": given.target})
            shown = [f"{row['kl_nats']:.4f}" for row in rows[-blocks:]]
            print(f"gamma {gamma:5g}  seed {seed}  KL {' '.join(shown)}", flush=True)
    publish(
        NAME,
        folder=given.folder,
        settings={"rows": given.rows, "updates": given.updates, "batch": BATCH, "rate": RATE, "width": WIDTH},
        rows=rows,
        started=started,
        figure=draw(rows),
        tables=tables(rows),
    )


if __name__ == "__main__":
    main()

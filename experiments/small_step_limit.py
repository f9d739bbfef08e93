r"""As gamma -> 0 the displacement of one block over gamma is the Wasserstein gradient: how fast, and how far.

    (T(x) - x)/gamma = -grad V(x) - grad log p_0(x) + O(gamma) + (learning error),    V = |x|²/2

Against p_0 known exactly: one trained block on a law on the line, the exact step of the same law beside it
(quantiles, nothing learned), and one trained block on a law in the plane. There the first block of a whole
flow is also read as a score, -(T(x) - x)/gamma - x, beside the score of the flow's own density.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (8) and (25).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from learned import differentiable_log_prob, gradient, kl_to_truth, relative_error, train_on_law
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from publish import COLOURS, STYLE, markdown_table, parser, publish, slope
from scipy.special import ndtr

from jkoflow.blocks.ode.family import NetworkSettings, NeuralODEFamily
from jkoflow.exact import QuantileLaw, normal_levels, quantile_step
from jkoflow.exact.functional import kl_divergence, quadratic
from jkoflow.laws import GaussianMixture
from jkoflow.recipe import DescentSettings
from jkoflow.runtime import seed_stream
from jkoflow.schedule import Schedule
from jkoflow.steps.solvers import ProximalSolver

NAME = "small_step_limit"
LINE = GaussianMixture([0.4, 0.6], [[-1.0], [0.8]], stds=[0.45, 0.6])
PLANE = GaussianMixture([0.5, 0.3, 0.2], [[-1.2, 0.4], [1.1, 0.8], [0.3, -1.3]], stds=[0.6, 0.7, 0.5])
BATCH, RATE, WIDTH = 512, 5e-3, 64
EXPONENT_OVER = 4
GROWTH = 4.0
"""Of the step sizes behind the first one of a whole flow, up to 1; then a free step."""


def quantiles(levels: np.ndarray) -> np.ndarray:
    """F^{-1} of `LINE` by bisection."""
    means, stds, weights = (getattr(LINE, name).numpy() for name in ("means", "stds", "weights"))
    low, high = np.full_like(levels, -12.0), np.full_like(levels, 12.0)
    for _ in range(80):
        middle = (low + high) / 2
        below = ndtr((middle[:, None] - means[:, 0]) / stds) @ weights < levels
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray((low + high) / 2)


def wasserstein_gradient(law: GaussianMixture, x: torch.Tensor) -> torch.Tensor:
    """-x - grad log p_0(x): the velocity of the diffusion at time 0, eq. (8)."""
    return -x - gradient(law.log_prob, x)


def solver(updates: int) -> ProximalSolver:
    """One network and descent for all step sizes."""
    descent = DescentSettings(updates, BATCH, RATE)
    return ProximalSolver(NeuralODEFamily(network=NetworkSettings(width=WIDTH)), descent, steps=1)


def on_the_line(
    gammas: Sequence[float], trained: int, *, cells: int, rows: int, updates: int, seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Velocities of one step against the gradient: exact ones, and a block's at the first `trained` sizes.

    The block's is also held against the exact step's, which is the learning error alone.
    """
    law = QuantileLaw.from_quantiles(quantiles, normal_levels(cells))
    at = torch.tensor(law.knots)[:, None]
    truth = wasserstein_gradient(LINE, at)[:, 0].numpy()
    functional = kl_divergence(quadratic(1.0), lam=1.0)
    found: list[dict[str, Any]] = []
    for index, gamma in enumerate(gammas):
        exact = (quantile_step(law, gamma, functional).law.knots - law.knots) / gamma
        row = {"law": "line", "gamma": gamma, "exact_error": law.norm(exact - truth) / law.norm(truth)}
        if index >= trained:
            found.append(row)
            continue
        for seed in seeds:
            done = train_on_law(
                LINE, Schedule((gamma,)), solver(updates), rows=rows, validation_rows=rows // 5, seed=seed
            )
            moved = copy.deepcopy(done.flow).double().push(at)[:, 0].numpy() - law.knots
            found.append(
                {
                    **row,
                    "seed": seed,
                    "error": law.norm(moved / gamma - truth) / law.norm(truth),
                    "learning_error": law.norm(moved / gamma - exact) / law.norm(truth),
                    "cpu_seconds": done.cpu_seconds,
                }
            )
        print(f"line   gamma {gamma:8.4f}  exact {row['exact_error']:.4f}  trained {found[-1]['error']:.4f}")
    return found


def in_the_plane(gammas: Sequence[float], *, rows: int, updates: int, seed: int) -> list[dict[str, Any]]:
    """Whole flows whose first step is gamma: velocity of the first block, and three scores."""
    at = PLANE.sample(rows // 2, seed_stream(seed, "fresh rows"))
    score, truth = gradient(PLANE.log_prob, at), wasserstein_gradient(PLANE, at)
    found = []
    for gamma in gammas:
        schedule = Schedule(growing(gamma))
        done = train_on_law(PLANE, schedule, solver(updates), rows=rows, validation_rows=rows // 5, seed=seed)
        flow = copy.deepcopy(done.flow).double()
        velocity = (flow.truncated(1).push(at) - at) / gamma
        own = gradient(partial(differentiable_log_prob, flow), at)
        found.append(
            {
                "law": "plane",
                "gamma": gamma,
                "seed": seed,
                "blocks": len(flow),
                "kl_nats": kl_to_truth(flow, PLANE, at)[0],
                "error": relative_error(velocity, truth),
                "displacement_score_error": relative_error(-velocity - at, score),
                "displacement_score_from_own": relative_error(-velocity - at, own),
                "own_score_error": relative_error(own, score),
                "cpu_seconds": done.cpu_seconds,
            }
        )
        print(f"plane  gamma {gamma:8.4f}  trained {found[-1]['error']:.4f}  KL {found[-1]['kl_nats']:.4f}")
    return found


def growing(first: float) -> tuple[float, ...]:
    """`first`, then each `GROWTH` times as long up to 1, then a free step."""
    n_finite = 1 + max(0, round(math.log(1 / first) / math.log(GROWTH)))
    return (*(first * GROWTH**n for n in range(n_finite)), math.inf)


def mean(rows: Sequence[dict[str, Any]], gamma: float, key: str) -> tuple[float, float]:
    """Mean and half the range over seeds; NaN where nothing was trained."""
    values = [row.get(key, math.nan) for row in rows if row["gamma"] == gamma]
    return sum(values) / len(values), (max(values) - min(values)) / 2


def gammas_of(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
    """The step sizes at which `key` was measured, largest first."""
    return sorted({row["gamma"] for row in rows if key in row}, reverse=True)


def exponent(rows: Sequence[dict[str, Any]], key: str, count: int) -> float:
    """The exponent in gamma over the `count` smallest step sizes."""
    gammas = gammas_of(rows, key)[-count:]
    return slope(gammas, [mean(rows, gamma, key)[0] for gamma in gammas])


def tables(line: list[dict[str, Any]], plane: list[dict[str, Any]]) -> dict[str, str]:
    """The velocity errors and the score errors by step size, and the exponents."""
    velocity = [
        [
            gamma,
            mean(line, gamma, "exact_error")[0],
            *(_shown(line, gamma, key) for key in ("error", "learning_error")),
        ]
        for gamma in gammas_of(line, "exact_error")
    ]
    keys = ("error", "displacement_score_error", "own_score_error", "displacement_score_from_own", "kl_nats")
    scores = [
        [
            gamma,
            int(mean(plane, gamma, "blocks")[0]),
            *(f"{mean(plane, gamma, key)[0]:.3g}" for key in keys),
        ]
        for gamma in gammas_of(plane, "error")
    ]
    exponents = [
        ["exact step", f"{EXPONENT_OVER} smallest", exponent(line, "exact_error", EXPONENT_OVER)],
        [
            "trained block against exact step",
            f"{EXPONENT_OVER} smallest",
            exponent(line, "learning_error", EXPONENT_OVER),
        ],
    ]
    line_header = ["γ", "exact step", "trained block", "trained block against exact step"]
    plane_header = [
        "γ",
        "blocks",
        "velocity of block 1",
        "block 1's score",
        "the flow's score",
        "block 1's score against the flow's",
        "KL, nats",
    ]
    return {
        "line": markdown_table(line_header, velocity),
        "plane": markdown_table(plane_header, scores),
        "exponents": markdown_table(["error", "γ", "exponent"], exponents),
    }


def _shown(rows: Sequence[dict[str, Any]], gamma: float, key: str) -> str:
    centre, spread = mean(rows, gamma, key)
    return "–" if math.isnan(centre) else f"{centre:.3g} ± {spread:.1g}"


def draw(line: list[dict[str, Any]], plane: list[dict[str, Any]]) -> Figure:
    """Velocity errors on the left, scores on the right."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 4.4), dpi=130, layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for rows, key, colour, style, label in (
            (line, "exact_error", COLOURS[0], "o-", "exact step, on the line"),
            (line, "error", COLOURS[1], "o-", "trained block, on the line"),
            (line, "learning_error", COLOURS[2], "s--", "its distance from the exact step"),
            (plane, "error", COLOURS[3], "^-", "trained block, in the plane"),
        ):
            _series(left, rows, key, colour, style, label)
        gammas = gammas_of(line, "exact_error")[-5:]
        last = mean(line, gammas[-1], "exact_error")[0]
        guide = [1.6 * last * gamma / gammas[-1] for gamma in gammas]
        left.plot(gammas, guide, ":", color="black", lw=1, label="∝ γ")
        left.set(title="velocity of one block: relative error", xlabel="step size γ")
        for key, colour, style, label in (
            ("displacement_score_error", COLOURS[3], "^-", "block 1's score, against ∇log p₀"),
            ("displacement_score_from_own", COLOURS[4], "v--", "block 1's score, against the flow's"),
            ("own_score_error", COLOURS[5], "D-", "the flow's score, against ∇log p₀"),
        ):
            _series(right, plane, key, colour, style, label)
        right.set(title="scores of a flow in the plane: relative error", xlabel="first step size γ")
        for axis in (left, right):
            axis.set(xscale="log", yscale="log")
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
            axis.grid(visible=True, which="major", color="#e6e9ee", lw=0.6)
    return figure


def _series(axis: Axes, rows: list[dict[str, Any]], key: str, colour: str, style: str, label: str) -> None:
    gammas = gammas_of(rows, key)
    centre, spread = zip(*(mean(rows, gamma, key) for gamma in gammas), strict=True)
    axis.errorbar(gammas, centre, yerr=spread, fmt=style, ms=4, color=colour, label=label, elinewidth=0.8)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, compare, publish."""
    options = parser(__doc__)
    options.add_argument("--halvings", type=int, default=8, help="gamma from 1 to 2^-this")
    options.add_argument("--rows", type=int, default=20_000)
    options.add_argument("--updates", type=int, default=500)
    options.add_argument("--cells", type=int, default=2000)
    options.add_argument("--repeats", type=int, default=2)
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    started = time.process_time()
    seeds = tuple(range(given.seed, given.seed + given.repeats))
    settings = {"rows": given.rows, "updates": given.updates, "seeds": seeds}
    gammas = [2.0**-n for n in range(given.halvings + 1)]
    finer = [*gammas, gammas[-1] / 2, gammas[-1] / 4]
    work = {"rows": given.rows, "updates": given.updates}
    line = on_the_line(finer, len(gammas), cells=given.cells, seeds=seeds, **work)
    plane = in_the_plane(gammas[::2], seed=given.seed, **work)
    publish(
        NAME,
        folder=given.folder,
        settings={**settings, "batch": BATCH, "rate": RATE, "width": WIDTH, "cells": given.cells},
        rows=[*line, *plane],
        started=started,
        figure=draw(line, plane),
        tables=tables(line, plane),
    )


if __name__ == "__main__":
    main()

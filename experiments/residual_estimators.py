r"""What the estimators of the first-order residual read where it is known, by dimension and number of rows.

    xi(y) = a + S (y - m'),   an exact Gaussian step from N(m, Σ) with that error injected,   gamma = 1/2

‖xi‖ = eps for eps in 0, 0.05, 0.2, 1 and d from 1 to 50; every estimate is of ‖xi‖, not of its square.

    python experiments/residual_estimators.py
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from publish import COLOURS, STYLE, markdown_table, parser, publish
from scipy.optimize import brentq
from torch import Tensor

from jkoflow.blocks import AffineBlock
from jkoflow.exact import AffineError, GaussianState, Quadratic, jko_step, transport_map
from jkoflow.first_order import (
    StepPairs,
    exact_residual,
    kernel_residual,
    norm_of,
    own_residual,
    own_scores,
    pushed_score,
    variational_norm,
)
from jkoflow.flow import Flow
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles
from jkoflow.runtime import seed_stream

NAME = "residual_estimators"
GAMMA = 0.5
DIMS, ERRORS, ROWS = (1, 2, 3, 5, 10, 20, 50), (0.0, 0.05, 0.2, 1.0), (2000, 10_000)
KERNEL_ROWS, SCORE_ROWS, REPETITIONS = 2000, 1000, 2


def start(dim: int) -> GaussianState:
    """N(m, Σ): |m| = 2, standard deviations 0.7 to 1.6 along random axes."""
    source = np.random.default_rng(dim)
    axes = np.linalg.qr(source.normal(size=(dim, dim)))[0]
    deviations = np.linspace(0.7, 1.6, dim)
    return GaussianState(np.full(dim, 2 / np.sqrt(dim)), (axes * deviations**2) @ axes.T)


def injected(state: GaussianState, eps: float) -> AffineError:
    """An affine xi of norm eps after the step, half a shift and half a squeeze."""
    dim = state.dim
    source = np.random.default_rng(100 + dim)
    shift, root = source.normal(size=dim), source.normal(size=(dim, dim))
    shift /= np.linalg.norm(shift)
    squeeze = -root @ root.T  # negative: then the step has a minimiser at any size
    squeeze /= np.linalg.norm(squeeze)

    def error(size: float) -> AffineError:
        return AffineError(size * shift, size * squeeze)

    def excess(size: float) -> float:
        after = jko_step(state, GAMMA, Quadratic.standard(dim), error=error(size))
        return error(size).norm(after) - eps

    return error(float(brentq(excess, 0.0, 50.0)) if eps > 0 else 0.0)


def affine(before: GaussianState, after: GaussianState, gamma: float) -> AffineBlock:
    """The optimal map between two Gaussians as a block."""
    step = transport_map(before, after)
    matrix, offset = torch.tensor(step.matrix), torch.tensor(step.offset)
    return AffineBlock(dim=before.dim, gamma=gamma, matrix=matrix, offset=offset)


def draw_rows(state: GaussianState, n: int, source: torch.Generator) -> Tensor:
    root = torch.linalg.cholesky(torch.tensor(state.covariance))
    noise = torch.randn(n, state.dim, generator=source, dtype=torch.float64)
    return torch.tensor(state.mean) + noise @ root.T


def read(dim: int, eps: float, n: int, seed: int) -> dict[str, float]:
    """‖xi‖ by every estimator, on n rows; the kernel on two clouds of at most 2,000."""
    state, base = start(dim), StandardNormal(dim)
    after = jko_step(state, GAMMA, Quadratic.standard(dim), error=injected(state, eps))
    block = affine(state, after, GAMMA)
    last = affine(after, jko_step(after, float("inf"), Quadratic.standard(dim)), float("inf"))
    source = seed_stream(seed, NAME, dim, n)
    x, other = draw_rows(state, n, source), draw_rows(state, min(n, KERNEL_ROWS), source)
    pairs = StepPairs(x, block.push(x), GAMMA, base)
    few = Particles(x[:SCORE_ROWS])
    inverse = torch.linalg.inv(torch.tensor(state.covariance))
    score = pushed_score(block, few.x, -(few.x - torch.tensor(state.mean)) @ inverse)[1]
    right, stopped = Flow(base, [block, last]), Flow(base, [block])
    some = pairs.rows(slice(0, SCORE_ROWS))
    kernel = kernel_residual(other, pairs.after[:KERNEL_ROWS], gamma=GAMMA, base=base)
    return {
        "kernel": norm_of(kernel).value,
        "exact": norm_of(exact_residual(some, score)).value,
        "variational": variational_norm(pairs, generator=source).value,
        "own": norm_of(own_residual(some, own_scores(right, few)[1])).value,
        "own_stopped": norm_of(own_residual(some, own_scores(stopped, few)[1])).value,
    }


def measured(
    dims: Sequence[int], errors: Sequence[float], rows: Sequence[int], repetitions: int, seed: int
) -> list[dict[str, Any]]:
    """Mean and spread over the repetitions of what each estimator reads."""
    found = []
    for dim in dims:
        for n in rows:
            for eps in errors:
                several = [read(dim, eps, n, seed + repetition) for repetition in range(repetitions)]
                row: dict[str, Any] = {"d": dim, "n": n, "eps": eps}
                for key in several[0]:
                    values = np.array([one[key] for one in several])
                    row |= {key: float(values.mean()), f"{key}_sd": float(values.std())}
                found.append(row)
        print(f"d = {dim} done", flush=True)
    return found


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """What is read against the dimension, one line for each true eps."""
    sizes = sorted({row["n"] for row in rows})
    panels = [
        ("kernel", sizes[0], "published kernel estimator"),
        *(("variational", n, "samples alone") for n in sizes),
    ]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(10.5, 3.4), sharey=True, layout="constrained")
        for panel, (key, n, title) in zip(axes, panels, strict=True):
            for number, eps in enumerate(sorted({row["eps"] for row in rows})):
                mine = [row for row in rows if row["eps"] == eps and row["n"] == n]
                dims = [row["d"] for row in mine]
                panel.errorbar(
                    dims,
                    [row[key] for row in mine],
                    [row[f"{key}_sd"] for row in mine],
                    color=COLOURS[number],
                    marker="o",
                    ms=3.5,
                    label=f"true eps {eps:g}",
                )
                panel.axhline(eps, color=COLOURS[number], ls=":", lw=1)
            panel.set(title=f"{title}, {n:,} rows", xlabel="d", xscale="log", yscale="symlog")
            panel.set_yscale("symlog", linthresh=0.1)
            panel.set_xticks(dims, [str(dim) for dim in dims])
            panel.minorticks_off()
        axes[0].set(
            ylabel="‖ξ‖ as read",
            yticks=[0, 0.05, 0.2, 1, 5, 10],
            yticklabels=["0", "0.05", "0.2", "1", "5", "10"],
        )
        axes[-1].legend(loc="upper right", bbox_to_anchor=(1, 0.98))
    return figure


def table_of(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> str:
    """One line for each dimension, number of rows and estimator; a column for each true eps."""
    errors = sorted({row["eps"] for row in rows})
    at = {(row["d"], row["n"], row["eps"]): row for row in rows}
    cells = []
    for key in keys:
        for dim, n in sorted({(row["d"], row["n"]) for row in rows}):
            shown = [f"{at[dim, n, e][key]:.3f} ± {at[dim, n, e][f'{key}_sd']:.3f}" for e in errors]
            cells.append([dim, n, *shown])
    return markdown_table(["d", "rows", *(f"eps {eps:g}" for eps in errors)], cells)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--dims", type=int, nargs="+", default=DIMS)
    options.add_argument("--rows", type=int, nargs="+", default=ROWS)
    options.add_argument("--repetitions", type=int, default=REPETITIONS)
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    started = time.process_time()
    rows = measured(given.dims, ERRORS, given.rows, given.repetitions, given.seed)
    smallest = min(given.rows)
    publish(
        NAME,
        folder=given.folder,
        settings={
            "gamma": GAMMA,
            "repetitions": given.repetitions,
            "kernel_rows": KERNEL_ROWS,
            "score_rows": SCORE_ROWS,
        },
        rows=rows,
        started=started,
        figure=draw(rows),
        tables={
            "kernel": table_of([row for row in rows if row["n"] == smallest], ["kernel"]),
            "variational": table_of(rows, ["variational"]),
            "exact": table_of([row for row in rows if row["n"] == smallest], ["exact"]),
            "own": table_of([row for row in rows if row["n"] == smallest], ["own"]),
            "stopped": table_of([row for row in rows if row["n"] == smallest], ["own_stopped"]),
        },
    )


if __name__ == "__main__":
    main()

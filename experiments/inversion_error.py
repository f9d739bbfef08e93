"""What errors of computed inverses do to samples: W2(q_0, q~_0) against Proposition 5.4.

    dilations    T_n = e^{-gamma K} id: each error is stretched by all blocks before it; the bound is attained
    exact flow   JKO steps of a Gaussian to N(0, I): the blocks stretch less and less
    alpha        eps_inv = eps^alpha with the N blocks of Corollary 5.2: the exponent of W2 in eps

Inverses are S_n(y) = T_n^{-1}(y + e_n), ‖T_n∘S_n - id‖ = ‖e_n‖ = eps_inv; e_n is one vector, always the same
(the worst), or fresh Gaussian noise. All laws are Gaussian, so that W2 and KL are exact.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from publish import COLOURS, STYLE, markdown_table, parser, publish, slope

from jkoflow.bounds import (
    blocks_needed,
    inversion_w2,
    inversion_w2_by_block,
    inversion_w2_closed,
    mixed_w2,
)
from jkoflow.exact import AffineMap, GaussianState, Quadratic, kl, trajectory, transport_map, w2

NAME = "inversion_error"
COUNTS = (1, 2, 4, 8, 16, 32)
GAMMAS, GROWTHS = (0.25, 0.5, 1.0), (0.1, 0.5)
ERROR = 1e-3
ALPHAS, TARGETS = (0.5, 1.0, 2.0, 3.0), (1e-1, 1e-2, 1e-3, 1e-4)
ALPHA_GAMMA, ALPHA_GROWTH = 1.0, 0.25
DIM = 2


@dataclass(frozen=True)
class Generated:
    """W2(q_0, q~_0) and KL(q_0‖q~_0)."""

    w2: float
    kl: float


def generated(maps: Sequence[AffineMap], error: float, *, kind: str) -> Generated:
    """The law that computed inverses make of N(0, I) against the law that exact ones make of it."""
    exact = computed = Quadratic.standard(DIM).equilibrium
    for step in reversed(maps):
        back = np.linalg.inv(step.matrix)
        exact = pulled(exact, step, back)
        shift = np.eye(DIM)[0] * error if kind == "one vector" else np.zeros(DIM)
        noise = error**2 / DIM * np.eye(DIM) if kind == "noise" else np.zeros((DIM, DIM))
        computed = pulled(GaussianState(computed.mean + shift, computed.covariance + noise), step, back)
    precision = np.linalg.inv(computed.covariance)
    return Generated(w2(exact, computed), kl(exact, Quadratic((precision + precision.T) / 2, computed.mean)))


def pulled(state: GaussianState, step: AffineMap, back: np.ndarray) -> GaussianState:
    covariance = back @ state.covariance @ back.T
    return GaussianState(step.source + back @ (state.mean - step.target), (covariance + covariance.T) / 2)


def dilations(gamma: float, growth: float, count: int) -> list[AffineMap]:
    return [AffineMap(math.exp(-gamma * growth) * np.eye(DIM), np.zeros(DIM), np.zeros(DIM))] * count


def jko_flow(gamma: float, spread: float, count: int) -> list[AffineMap]:
    """Exact steps from N((2, 0), spread² I)."""
    start = GaussianState([2.0, 0.0], spread**2 * np.eye(DIM))
    states = trajectory(start, [gamma] * count, Quadratic.standard(DIM))
    return [transport_map(before, after) for before, after in itertools.pairwise(states)]


def lipschitz_of(maps: Sequence[AffineMap]) -> list[float]:
    """L_n = Lip(T_n^{-1})."""
    return [1 / float(np.linalg.svd(step.matrix, compute_uv=False)[-1]) for step in maps]


def row_of(part: str, maps: Sequence[AffineMap], gamma: float, error: float, **told: float) -> dict[str, Any]:
    """Measured and bounded; K is the largest of log(L_n)/gamma, 0 where no inverse stretches."""
    constants = lipschitz_of(maps)
    growth = max(math.log(max(constants)) / gamma, 0.0)
    closed = inversion_w2_closed(error, gamma, growth, len(maps)) if growth > 0 else math.nan
    shift, noise = (generated(maps, error, kind=kind) for kind in ("one vector", "noise"))
    return {
        "part": part,
        **told,
        "blocks": len(maps),
        "gamma": gamma,
        "K": growth,
        "eps_inv": error,
        "w2_one_vector": shift.w2,
        "w2_noise": noise.w2,
        "kl_one_vector": shift.kl,
        "kl_noise": noise.kl,
        "bound_by_block": inversion_w2_by_block([error] * len(maps), constants),
        "bound_uniform": inversion_w2(error, gamma, growth, len(maps)),
        "bound_closed": closed,
    }


def alpha_row(alpha: float, targets: Sequence[float]) -> dict[str, Any]:
    """Exponents in eps of W2 and of the bounds, for dilations of the same K and for the exact flow."""
    gamma, growth, distance = ALPHA_GAMMA, ALPHA_GROWTH, 2.0
    spread = math.exp(gamma * growth)
    worst, usual, by_block, corollary = [], [], [], []
    for eps in targets:
        count, error = blocks_needed(distance, gamma, 1.0, eps), eps**alpha
        worst.append(generated(dilations(gamma, growth, count), error, kind="one vector").w2)
        maps = jko_flow(gamma, spread, count)
        usual.append(generated(maps, error, kind="one vector").w2)
        by_block.append(inversion_w2_by_block([error] * count, lipschitz_of(maps)))
        corollary.append(mixed_w2(distance, gamma, 1.0, eps, growth, error))
    return {
        "part": "alpha",
        "alpha": alpha,
        "eps": list(targets),
        "w2_dilations": worst,
        "w2_jko": usual,
        "bound_by_block": by_block,
        "bound_corollary": corollary,
        "exponent_dilations": slope(targets, worst),
        "exponent_jko": slope(targets, usual),
        "exponent_by_block": slope(targets, by_block),
        "exponent_corollary": alpha - 8 * growth,
    }


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.3), layout="constrained")
        for growth, colour in zip(GROWTHS, COLOURS, strict=False):
            chosen = [
                r
                for r in rows
                if r["part"] == "dilations" and r["gamma"] == 0.5 and math.isclose(r["K"], growth)
            ]
            lines(axes[0], chosen, colour, f", K = {growth:g}", closed=False)
        axes[0].set(title="dilations, γ = 0.5")
        chosen = [r for r in rows if r["part"] == "jko" and r["gamma"] == 0.5 and r["spread"] == 2.0]
        lines(axes[1], chosen, COLOURS[0], "", closed=True)
        axes[1].set(title="exact JKO flow from N((2, 0), 4 I), γ = 0.5", ylim=(1e-7, 1e5))
        for row, colour in zip([r for r in rows if r["part"] == "alpha"], COLOURS, strict=False):
            axes[2].loglog(row["eps"], row["w2_dilations"], "o-", color=colour, label=f"α = {row['alpha']:g}")
            axes[2].loglog(row["eps"], row["w2_jko"], "s:", color=colour)
        axes[2].set(title="ε_inv = ε^α, N of Corollary 5.2", xlabel="ε", ylabel="W2")
        axes[2].plot([], [], "o-", color="#6b7686", label="dilations")
        axes[2].plot([], [], "s:", color="#6b7686", label="JKO flow")
        for each in axes:
            each.legend()
    return figure


def lines(axes: Axes, rows: Sequence[dict[str, Any]], colour: str, told: str, *, closed: bool) -> None:
    """W2 against N with the bounds."""
    counts = [row["blocks"] for row in rows]
    axes.loglog(counts, [r["w2_one_vector"] for r in rows], "o-", color=colour, label=f"one vector{told}")
    axes.loglog(counts, [r["w2_noise"] for r in rows], "s-", color=colour, alpha=0.5, label=f"noise{told}")
    axes.loglog(counts, [r["bound_by_block"] for r in rows], "--", color="k", linewidth=1.1)
    if closed:
        axes.loglog(counts, [r["bound_uniform"] for r in rows], ":", color=COLOURS[1], label="(41), one K")
        axes.loglog(counts, [r["bound_closed"] for r in rows], "-.", color=COLOURS[3], label="(41), closed")
        axes.plot([], [], "--", color="k", label="(41) by blocks")
    axes.set(xlabel="N", ylabel="W2(q_0, q~_0)")


def tables(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    shown = ("bound_by_block", "bound_uniform", "bound_closed")
    measured = ("w2_one_vector", "w2_noise", "kl_one_vector", "kl_noise")
    header = ("W2, one vector", "W2, noise", "KL, one vector", "KL, noise", "by blocks", "one K", "closed")
    made = {}
    for part, extra in (("dilations", "K"), ("jko", "spread")):
        last = max(row["blocks"] for row in rows if row["part"] == part)
        chosen = [row for row in rows if row["part"] == part and row["blocks"] == last]
        made[part] = markdown_table(
            ("γ", "K" if extra == "K" else "spread of p_0", "N", *header),
            [
                [r["gamma"], float(r[extra]), r["blocks"], *(float(r[n]) for n in (*measured, *shown))]
                for r in chosen
            ],
        )
    names = ("alpha", "exponent_dilations", "exponent_corollary", "exponent_jko", "exponent_by_block")
    made["alpha"] = markdown_table(
        ("α", "dilations", "Corollary 5.5, α − 8K/λ", "JKO flow", "(41) by blocks of it"),
        [[float(row[name]) for name in names] for row in rows if row["part"] == "alpha"],
    )
    return made


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    args, started = options.parse_args(argv), time.process_time()
    rows = [
        row_of("dilations", dilations(gamma, growth, count), gamma, ERROR)
        for gamma, growth, count in itertools.product(GAMMAS, GROWTHS, args.counts)
    ]
    rows += [
        row_of("jko", jko_flow(gamma, spread, count), gamma, ERROR, spread=spread)
        for gamma, spread, count in itertools.product(GAMMAS, (0.5, 2.0), args.counts)
    ]
    rows += [alpha_row(alpha, TARGETS) for alpha in ALPHAS]
    publish(
        NAME,
        folder=args.folder,
        settings={"counts": list(args.counts), "eps_inv": ERROR, "dim": DIM, "alpha_K": ALPHA_GROWTH},
        rows=rows,
        started=started,
        figure=draw(rows),
        tables=tables(rows),
    )
    for key, table in tables(rows).items():
        print(f"{key}\n{table}\n")


if __name__ == "__main__":
    main()

"""How fast exact proximal steps between Gaussians approach the base, and where injected errors stop them.

    rate      W2²(p_n, q) by exact steps, its factor at each step, against both bounds
    floor     W2 and KL at the end under a first-order error of norm eps: the exponent in eps
    blocks    N until W2(p_N, q) <= sqrt(5) eps/lambda, against log(1/eps)

V = lambda |x|²/2 in the first direction and 2 lambda in the second, whose covariance is off as well.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from publish import COLOURS, STYLE, markdown_table, parser, publish, slope

from jkoflow.bounds import (
    blocks_needed,
    contraction_squared,
    forward_w2_squared,
    sharp_last_step_kl,
    sharp_w2,
)
from jkoflow.exact import AffineError, GaussianState, Quadratic, jko_step, kl, w2

NAME = "gaussian_convergence"
GAMMAS, LAMBDAS = (0.1, 0.5, 1.0, 1.9), (0.3, 1.0)
RATE_STEPS, FLOOR_TIME = 40, 60.0
ROUNDING = 1e-6
"""Of W2 relative to its start: below, rounding shows."""
FLOORS = (1e-3, 1e-2, 1e-1, 1.0)
TARGETS = tuple(10.0**-k for k in range(1, 9))


@dataclass(frozen=True)
class Path:
    """W2(p_n, q) and KL(p_n‖q) for n = 0, 1, and so on."""

    w2: tuple[float, ...]
    kl: tuple[float, ...]


def potential_of(lam: float) -> Quadratic:
    return Quadratic(np.diag([lam, 2 * lam]), np.zeros(2))


def start_of(lam: float, *, only_mean: bool) -> GaussianState:
    """Off by (3, 0), and by the covariance too unless `only_mean`; it does not commute with A then."""
    covariance = potential_of(lam).equilibrium.covariance
    if only_mean:
        return GaussianState([3.0, 0.0], covariance)
    return GaussianState([3.0, 1.0], [[0.5, 0.4], [0.4, 2.0]] @ covariance @ [[0.5, 0.4], [0.4, 2.0]])


def path(start: GaussianState, gamma: float, lam: float, steps: int, *, eps: float = 0.0) -> Path:
    """Steps with xi = (eps, 0), which points away from q all the time: the worst of that norm."""
    potential, states = potential_of(lam), [start]
    error = AffineError([eps, 0.0], np.zeros((2, 2))) if eps else None
    for _ in range(steps):
        states.append(jko_step(states[-1], gamma, potential, error=error))
    q = potential.equilibrium
    return Path(tuple(w2(state, q) for state in states), tuple(kl(state, potential) for state in states))


def factor(values: Sequence[float]) -> float:
    """Factor per step of a sequence that falls geometrically, by least squares of its logarithm."""
    return math.exp(slope([math.exp(n) for n in range(len(values))], values))


def rate_row(gamma: float, lam: float, steps: int) -> dict[str, float]:
    """The factors of W2² and KL; of the general start over the second half, where the mean rules."""
    shift = path(start_of(lam, only_mean=True), gamma, lam, steps)
    general = path(start_of(lam, only_mean=False), gamma, lam, steps)
    until = sum(value > ROUNDING * general.w2[0] for value in general.w2)
    return {
        "gamma": gamma,
        "lambda": lam,
        "w2_squared_mean_shift": factor([value**2 for value in shift.w2[:until]]),
        "w2_squared_general": factor([value**2 for value in general.w2[until // 2 : until]]),
        "kl_general": factor(general.kl[until // 2 : until]),
        "sharper": (1 + gamma * lam) ** -2,
        "contraction": contraction_squared(gamma, lam),
        "theorem": 1 / (1 + gamma * lam / 2),
    }


def floor_row(gamma: float, lam: float, floors: Sequence[float]) -> dict[str, Any]:
    """W2 and KL after a time in which the start is forgotten, at every eps, and their exponents."""
    steps = math.ceil(FLOOR_TIME / (gamma * lam)) if gamma < 1 else math.ceil(FLOOR_TIME / lam)
    start = start_of(lam, only_mean=False)
    ends = [path(start, gamma, lam, steps, eps=eps) for eps in floors]
    distances, nats = [end.w2[-1] for end in ends], [end.kl[-1] for end in ends]
    return {
        "gamma": gamma,
        "lambda": lam,
        "eps": list(floors),
        "w2": distances,
        "kl": nats,
        "w2_exponent": slope(floors, distances),
        "kl_exponent": slope(floors, nats),
        "w2_over_eps_by_lambda": distances[0] * lam / floors[0],
        "kl_over_eps_by_lambda_squared": nats[0] * (lam / floors[0]) ** 2,
        "sharper_kl": sharp_last_step_kl(1.0, gamma, lam, lam),
        "theorem_kl": 9 / (2 * gamma),
    }


def first(values: Iterable[float], level: float) -> int:
    return next(n for n, value in enumerate(values) if value <= level)


def blocks_row(gamma: float, lam: float, targets: Sequence[float]) -> dict[str, Any]:
    """N at every eps, measured, by the sharper form, by the corollary; and dN/d log(1/eps)."""
    start = start_of(lam, only_mean=True)
    distance = w2(start, potential_of(lam).equilibrium)
    measured, sharper, corollary = [], [], []
    for eps in targets:
        goal, needed = math.sqrt(5) * eps / lam, blocks_needed(distance, gamma, lam, eps)
        measured.append(first(path(start, gamma, lam, needed, eps=eps).w2, goal))
        told = (
            distance if n == 0 else sharp_w2(distance, [gamma] * n, [eps] * n, lam) for n in range(needed + 1)
        )
        sharper.append(first(told, goal))
        corollary.append(needed)
    return {
        "gamma": gamma,
        "lambda": lam,
        "eps": list(targets),
        "blocks": measured,
        "blocks_sharper": sharper,
        "blocks_corollary": corollary,
        "slope": line_slope(targets, measured),
        "slope_sharper": 1 / math.log1p(gamma * lam),
        "slope_corollary": 8 / (gamma * lam),
    }


def line_slope(targets: Sequence[float], counts: Sequence[int]) -> float:
    """dN/d log(1/eps)."""
    return -slope(targets, [math.exp(count - max(counts)) for count in counts])


def draw(floor: Sequence[dict[str, Any]], blocks: Sequence[dict[str, Any]]) -> Figure:
    with plt.rc_context(STYLE):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10.5, 3.3), layout="constrained")
        draw_paths(left)
        chosen = [row for row in floor if row["gamma"] == 0.5]
        for row, colour in zip(chosen, COLOURS, strict=False):
            middle.loglog(row["eps"], row["w2"], "o-", color=colour, label=f"W2, λ = {row['lambda']:g}")
            middle.loglog(row["eps"], row["kl"], "s--", color=colour, label=f"KL, λ = {row['lambda']:g}")
        middle.set(title="floor, γ = 0.5", xlabel="ε", ylabel="W2(p_n, q) and KL(p_n‖q)")
        for row, colour in zip([row for row in blocks if row["lambda"] == 1.0], COLOURS, strict=False):
            logs = [math.log(1 / eps) for eps in row["eps"]]
            told, scale = f"measured, γ = {row['gamma']:g}", row["gamma"] * row["lambda"]
            right.plot(logs, [scale * n for n in row["blocks"]], "o-", color=colour, label=told)
            right.plot(logs, [scale * n for n in row["blocks_corollary"]], ":", color=colour)
        right.set(title="blocks needed, λ = 1", xlabel="log(1/ε)", ylabel="γ λ N")
        right.plot([], [], ":", color="#6b7686", label="Corollary 5.2")
        for axes in (left, middle, right):
            axes.legend()
    return figure


def draw_paths(axes: Axes, *, gamma: float = 0.5, lam: float = 1.0, steps: int = 30) -> None:
    """W2² of exact steps and of steps with errors, with both bounds."""
    start = start_of(lam, only_mean=False)
    n = range(steps + 1)
    for eps, colour in zip((0.0, 0.01, 0.1), COLOURS, strict=False):
        found = path(start, gamma, lam, steps, eps=eps)
        squares = [value**2 for value in found.w2]
        begin, sizes = found.w2[0], ([gamma] * steps, [eps] * steps)
        paper = [forward_w2_squared(begin, sizes[0][:k], sizes[1][:k], lam) for k in n[1:]]
        sharper = [sharp_w2(begin, sizes[0][:k], sizes[1][:k], lam) ** 2 for k in n[1:]]
        axes.semilogy(n, squares, color=colour, label=f"ε = {eps:g}")
        axes.semilogy(n, [begin**2, *sharper], "--", color=colour, linewidth=1.1)
        axes.semilogy(n, [begin**2, *paper], ":", color=colour, linewidth=1.1)
    axes.plot([], [], "--", color="#6b7686", label="sharper form")
    axes.plot([], [], ":", color="#6b7686", label="Theorem 4.3")
    axes.set(title="γ = 0.5, λ = 1", xlabel="n", ylabel="W2²(p_n, q)", ylim=(1e-7, 30))


def tables(
    rates: Sequence[dict[str, Any]], floor: Sequence[dict[str, Any]], blocks: Sequence[dict[str, Any]]
) -> dict[str, str]:
    columns = {
        "rates": (
            rates,
            (
                "γ",
                "λ",
                "W2², mean shift",
                "W2², general",
                "KL, general",
                "(1+γλ)⁻²",
                "1/(1+γλ)",
                "1/(1+γλ/2)",
            ),
            (
                "gamma",
                "lambda",
                "w2_squared_mean_shift",
                "w2_squared_general",
                "kl_general",
                "sharper",
                "contraction",
                "theorem",
            ),
        ),
        "floor": (
            floor,
            ("γ", "λ", "exponent of W2", "exponent of KL", "W2 λ/ε", "KL (λ/ε)²", "sharper", "9/(2γ)"),
            (
                "gamma",
                "lambda",
                "w2_exponent",
                "kl_exponent",
                "w2_over_eps_by_lambda",
                "kl_over_eps_by_lambda_squared",
                "sharper_kl",
                "theorem_kl",
            ),
        ),
        "blocks": (
            blocks,
            ("γ", "λ", "slope, measured", "1/log(1+γλ)", "8/(γλ)"),
            ("gamma", "lambda", "slope", "slope_sharper", "slope_corollary"),
        ),
    }
    return {
        key: markdown_table(header, [[float(row[name]) for name in names] for row in rows])
        for key, (rows, header, names) in columns.items()
    }


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--gammas", type=float, nargs="+", default=GAMMAS)
    options.add_argument("--lambdas", type=float, nargs="+", default=LAMBDAS)
    options.add_argument("--steps", type=int, default=RATE_STEPS)
    args, started = options.parse_args(argv), time.process_time()
    grid = [(gamma, lam) for lam in args.lambdas for gamma in args.gammas]
    rates = [rate_row(gamma, lam, args.steps) for gamma, lam in grid]
    floor = [floor_row(gamma, lam, FLOORS) for gamma, lam in grid]
    blocks = [blocks_row(gamma, lam, TARGETS) for gamma, lam in grid]
    publish(
        NAME,
        folder=args.folder,
        settings={"gammas": list(args.gammas), "lambdas": list(args.lambdas), "steps": args.steps, "dim": 2},
        rows=[
            *({"part": "rate", **row} for row in rates),
            *({"part": "floor", **row} for row in floor),
            *({"part": "blocks", **row} for row in blocks),
        ],
        started=started,
        figure=draw(floor, blocks),
        tables=tables(rates, floor, blocks),
    )
    for key, table in tables(rates, floor, blocks).items():
        print(f"{key}\n{table}\n")


if __name__ == "__main__":
    main()

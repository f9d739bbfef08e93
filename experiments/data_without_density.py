"""Data without a density: how far the smoothed law is from them, and what the theorems then say of which law.

    distance    W2(P, rho_delta) against delta: three atoms on the line, a circle, a table of counts
    guarantee   exact JKO steps from rho_delta, with errors of norm eps: KL(rho_delta‖q_0) = KL(p_N‖q) and W2

All distances are integrals, without samples: on the line between quantile functions, for independent columns
the sum over them, for the circle W2² = E(|Y| - R)², since Y ↦ R Y/|Y| moves no point further than it must.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator
from numpy.typing import NDArray
from publish import COLOURS, STYLE, markdown_table, parser, publish, slope
from scipy.special import ndtr, ndtri
from scipy.stats import poisson, rice

from jkoflow.bounds import forward_kl, smoothing_time, smoothing_w2_squared
from jkoflow.exact import (
    QuantileLaw,
    evaluate,
    field_of_norm,
    normal_levels,
    quantile_step,
)
from jkoflow.exact.functional import kl_divergence, quadratic

Array = NDArray[np.float64]

NAME = "data_without_density"
DELTAS = (0.8, 0.4, 0.2, 0.1, 0.05, 0.025)
ATOMS, MASSES = np.array([-1.2, 0.1, 1.5]), np.array([0.5, 0.3, 0.2])
GAMMA, EPS, STEPS, CELLS = 0.5, 0.05, 24, 120
REACH = 3.5
"""Of the levels inside the mass of an atom."""
GRID = 50_000


def moments(values: Array, masses: Array) -> tuple[float, float]:
    mean = float(masses @ values)
    return mean, math.sqrt(float(masses @ (values - mean) ** 2))


def standardised(values: Array, masses: Array) -> Array:
    mean, spread = moments(values, masses)
    return (values - mean) / spread


def levels() -> Array:
    """Midpoints of equal shares of the mass."""
    return np.asarray((np.arange(GRID) + 0.5) / GRID)


def atoms_at(u: Array, values: Array, masses: Array) -> Array:
    """Quantile function of atoms in increasing order."""
    index = np.searchsorted(np.cumsum(masses), u).clip(max=len(values) - 1)
    return np.asarray(values[index])


def smoothed_quantiles(u: Array, values: Array, masses: Array, delta: float, dim: int, m2: float) -> Array:
    """Quantile function of rho_t of atoms, t by the lemma: the distribution function by bisection."""
    t = smoothing_time(m2, dim, delta)
    centres, sigma = math.exp(-t) * values, math.sqrt(-math.expm1(-2 * t))
    low, high = np.full_like(u, centres.min() - 10 * sigma), np.full_like(u, centres.max() + 10 * sigma)
    for _ in range(48):
        middle = (low + high) / 2
        below = sum(m * ndtr((middle - c) / sigma) for m, c in zip(masses, centres, strict=True)) < u
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def line_w2_squared(values: Array, masses: Array, delta: float, dim: int, m2: float) -> float:
    """W2² of one column."""
    u = levels()
    gap = smoothed_quantiles(u, values, masses, delta, dim, m2) - atoms_at(u, values, masses)
    return float((gap**2).mean())


def of_atoms(delta: float) -> tuple[float, float, int]:
    """W2², M2 and d of the three atoms."""
    values = standardised(ATOMS, MASSES)
    m2 = float(MASSES @ values**2)
    return line_w2_squared(values, MASSES, delta, 1, m2), m2, 1


def of_circle(delta: float) -> tuple[float, float, int]:
    """W2², M2 and d of a circle with unit variance in each column: |Y| has Rice's law."""
    radius = math.sqrt(2.0)
    t = smoothing_time(radius**2, 2, delta)
    sigma, centre = math.sqrt(-math.expm1(-2 * t)), math.exp(-t) * radius
    u = levels()
    return float(((rice(centre / sigma, scale=sigma).ppf(u) - radius) ** 2).mean()), radius**2, 2


def of_counts(delta: float) -> tuple[float, float, int]:
    """W2², M2 and d of two independent columns of Poisson counts, means 2 and 6, standardised."""
    columns = []
    for mean in (2.0, 6.0):
        counts = np.arange(40.0)
        masses = poisson(mean).pmf(counts)
        counts, masses = counts[masses > 1e-9], masses[masses > 1e-9]
        masses = masses / masses.sum()
        columns.append((standardised(counts, masses), masses))
    m2 = sum(float(masses @ values**2) for values, masses in columns)
    return sum(line_w2_squared(values, masses, delta, 2, m2) for values, masses in columns), m2, 2


DATA: dict[str, Callable[[float], tuple[float, float, int]]] = {
    "three atoms": of_atoms,
    "circle": of_circle,
    "counts": of_counts,
}

GUARANTEE = {
    "delta": "δ",
    "w2_to_q": "W2(ρ_δ, q)",
    "kl_end": "KL(ρ_δ‖q_0)",
    "kl_end_bound": "Theorem 4.3",
    "w2_smoothed_to_model": "W2(ρ_δ, q_0)",
    "w2_data_to_smoothed": "W2(P, ρ_δ)",
    "w2_data_to_model": "W2(P, q_0)",
}
"""Columns of the table, by their names in a row."""


def distance_row(data: str, delta: float) -> dict[str, Any]:
    squared, m2, dim = DATA[data](delta)
    t = smoothing_time(m2, dim, delta)
    return {
        "part": "distance",
        "data": data,
        "delta": delta,
        "time": t,
        "w2": math.sqrt(squared),
        "bound": math.sqrt(smoothing_w2_squared(m2, dim, t)),
    }


def guarantee_row(delta: float, *, steps: int, cells: int) -> dict[str, Any]:
    """Steps with errors of norm EPS in random directions, from the smoothed atoms to N(0, 1) and back."""
    values = standardised(ATOMS, MASSES)
    m2 = float(MASSES @ values**2)
    shares = levels_by_atom(cells)
    start = QuantileLaw.from_quantiles(lambda u: smoothed_quantiles(u, values, MASSES, delta, 1, m2), shares)
    functional = kl_divergence(quadratic(1.0), lam=1.0)
    normal = QuantileLaw.from_quantiles(ndtri, shares)
    q = quantile_step(normal, math.inf, functional).law
    lowest = evaluate(functional, q)  # of N(0, 1) in these cells
    rng, law, nats = np.random.default_rng(0), start, [evaluate(functional, start) - lowest]
    for _ in range(steps):
        xi = field_of_norm(law, np.sin(rng.normal() + rng.normal(size=3) @ waves(shares)), EPS)
        law = quantile_step(law, GAMMA, functional, error=xi).law
        nats.append(evaluate(functional, law) - lowest)
    u = levels()
    back = sampled_quantiles(u, start, law)
    return {
        "part": "guarantee",
        "delta": delta,
        "w2_to_q": start.w2(q),
        "kl": nats,
        "kl_bound": [
            math.inf,
            *(forward_kl(start.w2(q), [GAMMA] * n, [EPS] * n, 1.0) for n in range(1, steps + 1)),
        ],
        "kl_end": nats[-1],
        "kl_end_bound": forward_kl(start.w2(q), [GAMMA] * steps, [EPS] * steps, 1.0),
        "w2_smoothed_to_model": rms(back - smoothed_quantiles(u, values, MASSES, delta, 1, m2)),
        "w2_data_to_model": rms(back - atoms_at(u, values, MASSES)),
        "w2_data_to_smoothed": math.sqrt(of_atoms(delta)[0]),
    }


def levels_by_atom(cells: int) -> Array:
    """Levels that are fine at both ends of each atom's mass, where the quantile function jumps."""
    of_one, ends = normal_levels(cells // len(MASSES), reach=REACH), np.cumsum(MASSES)
    parts = [end - mass + mass * of_one[:-1] for mass, end in zip(MASSES, ends, strict=True)]
    return np.concatenate([*parts, [1.0]])


def waves(shares: Array) -> Array:
    """Slow functions of the level, shape `(3, n)`."""
    return np.stack([np.cos(math.pi * k * shares) for k in (1, 2, 3)])


def sampled_quantiles(u: Array, start: QuantileLaw, end: QuantileLaw) -> Array:
    """Quantile function of q_0: a normal quantile, pulled back by the increasing map of the knots.

    The map goes on with slope 1 beyond the outermost knots.
    """
    z = ndtri(u)
    x = np.interp(z, end.knots, start.knots)
    beyond = np.minimum(z - end.knots[0], 0) + np.maximum(z - end.knots[-1], 0)
    return np.asarray(x + beyond)


def rms(gap: Array) -> float:
    return math.sqrt(float((gap**2).mean()))


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    with plt.rc_context(STYLE):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10.5, 3.3), layout="constrained")
        for data, colour in zip(DATA, COLOURS, strict=False):
            chosen = [row for row in rows if row.get("data") == data]
            deltas = [row["delta"] for row in chosen]
            left.loglog(deltas, [row["w2"] for row in chosen], "o-", color=colour, label=data)
            left.loglog(deltas, [row["bound"] for row in chosen], ":", color=colour, linewidth=1.1)
        left.plot(deltas, deltas, "--", color="#6b7686", linewidth=1.1, label="δ")
        left.plot([], [], ":", color="#6b7686", label="Lemma C.1 at t(δ)")
        left.set(title="how far smoothing moves the data", xlabel="δ", ylabel="W2(P, ρ_δ)")
        chosen = [row for row in rows if row["part"] == "guarantee"]
        for row, colour in zip(chosen[::2], COLOURS, strict=False):
            n = range(len(row["kl"]))
            middle.semilogy(n, row["kl"], "o-", markersize=3, color=colour, label=f"δ = {row['delta']:g}")
        middle.semilogy(n, row["kl_bound"], ":", color="#6b7686", label="Theorem 4.3")
        middle.set(title=f"exact steps, γ = {GAMMA:g}, ε = {EPS:g}", xlabel="n", ylabel="KL(p_n‖q), nats")
        deltas = [row["delta"] for row in chosen]
        right.loglog(deltas, [row["w2_data_to_model"] for row in chosen], "o-", label="W2(P, q_0)")
        right.loglog(deltas, [row["w2_data_to_smoothed"] for row in chosen], "s--", label="W2(P, ρ_δ)")
        right.loglog(deltas, [row["w2_smoothed_to_model"] for row in chosen], "^:", label="W2(ρ_δ, q_0)")
        right.set(title=f"model of the atoms, n = {len(row['kl']) - 1}", xlabel="δ", ylabel="W2")
        for axes in (left, right):
            axes.set_xticks(deltas, [f"{delta:g}" for delta in deltas])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_minor_formatter(NullFormatter())
        for axes in (left, middle, right):
            axes.legend()
    return figure


def tables(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    distance, guarantee = [], []
    for data in DATA:
        chosen = [row for row in rows if row.get("data") == data]
        small = [row for row in chosen if row["delta"] <= 0.2] or chosen
        exponent = slope([row["delta"] for row in small], [row["w2"] for row in small])
        last = chosen[-1]
        distance.append([data, exponent, last["w2"] / last["delta"], last["bound"] / last["delta"]])
    for row in rows:
        if row["part"] == "guarantee":
            guarantee.append([float(row[name]) for name in GUARANTEE] + [row["kl"][0]])
    return {
        "distance": markdown_table(("data", "exponent", "W2/δ", "Lemma C.1 at t(δ), by δ"), distance),
        "guarantee": markdown_table((*GUARANTEE.values(), "KL(ρ_δ‖q)"), guarantee),
    }


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--deltas", type=float, nargs="+", default=DELTAS)
    options.add_argument("--steps", type=int, default=STEPS)
    options.add_argument("--cells", type=int, default=CELLS)
    args, started = options.parse_args(argv), time.process_time()
    rows = [distance_row(data, delta) for data in DATA for delta in args.deltas]
    rows += [guarantee_row(delta, steps=args.steps, cells=args.cells) for delta in args.deltas]
    publish(
        NAME,
        folder=args.folder,
        settings={"gamma": GAMMA, "eps": EPS, "steps": args.steps, "cells": args.cells},
        rows=rows,
        started=started,
        figure=draw(rows),
        tables=tables(rows),
    )
    for key, table in tables(rows).items():
        print(f"{key}\n{table}\n")


if __name__ == "__main__":
    main()

"""Exact proximal steps of other functionals than KL: the rates that are proved, and what is not.

    strongly convex    lambda-convex G: W2² falls by 1/(1 + gamma lambda)² a step or faster
    convex             lambda = 0: G - G* falls like 1/n or faster, below W2²(p_0, q)/(2 gamma n)
    not convex         reverse KL, Hellinger, Jensen-Shannon: what happens, with no claim

On the line, where the step is a finite problem that Newton's method solves (jkoflow.exact.quantile_step).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from publish import COLOURS, STYLE, markdown_table, parser, publish, slope
from scipy.special import ndtri

from jkoflow.bounds import algebraic_rate
from jkoflow.exact import QuantileLaw, evaluate, normal_levels, quantile_step
from jkoflow.exact.functional import (
    Functional,
    Jet,
    divergence,
    internal_energy,
    kl_divergence,
    log_cosh,
    potential_energy,
    quadratic,
    quartic,
)

Array = NDArray[np.float64]

NAME = "general_functionals"
CELLS = 48
GAMMAS = (0.25, 1.0)
STEPS, MANY_STEPS = 20, 300
PARTS = ("strong", "flat", "other")
ROUNDING = 1e-12
"""Of G - G* and W2², relative: below, rounding shows."""


def power(exponent: int) -> Callable[[Array], Jet]:
    """V(x) = |x|^p/p for even p: the flatter at 0 the larger p is."""

    def function(x: Array) -> Jet:
        return Jet(x**exponent / exponent, x ** (exponent - 1), (exponent - 1) * x ** (exponent - 2))

    return function


def kinked(x: Array) -> Jet:
    return quadratic(0.5)(x) + log_cosh(2.0, 0.5, 0.2)(x)


STRONG: dict[str, Functional] = {
    "KL": kl_divergence(quadratic(1.0), lam=1.0),
    "KL, kinked V": kl_divergence(kinked, lam=0.5, log_z=0.0),
    "potential": potential_energy(quadratic(1.0), lam=1.0),
    "potential + internal": Functional(
        "potential + internal", 1.0, potential=quadratic(1.0), density=internal_energy(2.0).density
    ),
    "potential + internal + interaction": Functional(
        "potential + internal + interaction",
        0.5,
        potential=quadratic(0.5),
        density=internal_energy(2.0).density,
        interaction=quartic(1.0),
    ),
}

FLAT: dict[str, Functional] = {
    "KL, V = x⁴/4": kl_divergence(quartic(1.0), lam=0.0),
    "chi²": divergence("chi2", quadratic(1.0)),
    "potential x⁴/4": potential_energy(power(4), lam=0.0),
    "potential x⁸/8": potential_energy(power(8), lam=0.0),
}

LIMITS = {"potential x⁴/4": -2.0, "potential x⁸/8": -4 / 3}
"""Exponent of G - G* in n by the ordinary differential equation x' = -x^{p-1}: -p/(p - 2)."""

OTHER: dict[str, Functional] = {
    name: divergence(key, quadratic(1.0))
    for name, key in (
        ("reverse KL", "reverse_kl"),
        ("Hellinger", "hellinger"),
        ("Jensen–Shannon", "jensen_shannon"),
    )
}

CURVATURE = {"reverse KL": 1.0, "Hellinger": 0.5, "Jensen–Shannon": 0.25}
"""F''(1): near q the divergence is F''(1) times the KL divergence to second order."""


@dataclass(frozen=True)
class Descent:
    """G(p_n) - G* and W2(p_n, q), n = 0, 1, and so on, and how far each knot ends from that of q."""

    excess: tuple[float, ...]
    w2: tuple[float, ...]
    gap: Array


def start(cells: int, *, width: float = 0.7) -> QuantileLaw:
    """Skewed: quantiles 1 + w z + 0.2 w z² up to |z| = 2.5."""
    return QuantileLaw.from_quantiles(
        lambda u: 1.0 + width * normal(u) + 0.2 * width * normal(u) ** 2,
        normal_levels(cells, reach=2.5),
        reach=2.5,
    )


def normal(u: Array) -> Array:
    return np.asarray(ndtri(u))


def minimiser(functional: Functional, law: QuantileLaw) -> tuple[Array, float]:
    """The knots of q and G(q): all mass at 0 for a potential alone, else the end of a free step."""
    if functional.density is None:
        return np.zeros_like(law.knots), 0.0
    q = quantile_step(law, math.inf, functional).law
    return q.knots, evaluate(functional, q)


def descend(functional: Functional, gamma: float, steps: int, *, cells: int) -> Descent:
    """Exact steps, against the minimiser of G among the laws of these masses."""
    law = start(cells)
    (knots, lowest), excess, distances = minimiser(functional, law), [], []
    for n in range(steps + 1):
        if n:
            law = quantile_step(law, gamma, functional).law
        excess.append(evaluate(functional, law) - lowest)
        distances.append(law.norm(law.knots - knots))
    return Descent(tuple(excess), tuple(distances), law.knots - knots)


def factor(values: Sequence[float], begin: float) -> float:
    """Factor per step over the second half of what is above rounding."""
    until = next((n for n, value in enumerate(values) if value <= ROUNDING * begin), len(values))
    kept = values[until // 2 : until]
    return math.exp(slope([math.exp(n) for n in range(len(kept))], kept)) if len(kept) > 1 else math.nan


def squares(descent: Descent) -> list[float]:
    return [value**2 for value in descent.w2]


def strong_row(name: str, gamma: float, *, steps: int, cells: int) -> dict[str, Any]:
    """The largest factor of W2² at one step, the last ones, and the bound of both."""
    functional = STRONG[name]
    assert functional.lam is not None
    found = descend(functional, gamma, steps, cells=cells)
    w2_squared = squares(found)
    kept = [value for value in w2_squared if value > ROUNDING * w2_squared[0]]
    ratios = [after / before for before, after in pairwise(kept)]
    return {
        "part": "strong",
        "functional": name,
        "gamma": gamma,
        "lambda": functional.lam,
        "w2": list(found.w2),
        "excess": list(found.excess),
        "largest_factor": max(ratios),
        "last_factor": factor(w2_squared, w2_squared[0]),
        "sharper": (1 + gamma * functional.lam) ** -2,
        "contraction": 1 / (1 + gamma * functional.lam),
        "theorem": 1 / (1 + gamma * functional.lam / 2),
    }


def flat_row(name: str, gamma: float, *, steps: int, cells: int) -> dict[str, Any]:
    """G - G* against the algebraic rate, and its exponent in n over the second half before rounding."""
    found = descend(FLAT[name], gamma, steps, cells=cells)
    bounds = [algebraic_rate(found.w2[0], gamma, n) for n in range(1, steps + 1)]
    until = next((n for n, v in enumerate(found.excess) if v <= ROUNDING * found.excess[0]), steps + 1)
    kept = range(max(until // 2, 1), until)
    return {
        "part": "flat",
        "functional": name,
        "gamma": gamma,
        "excess": list(found.excess),
        "bound": bounds,
        "largest_ratio": max(value / bound for value, bound in zip(found.excess[1:], bounds, strict=True)),
        "exponent": slope(kept, [found.excess[n] for n in kept]) if len(kept) > 2 else math.nan,
        "exponent_of_flow": LIMITS.get(name, math.nan),
    }


def other_row(name: str, gamma: float, *, steps: int, cells: int) -> dict[str, Any]:
    """What happens, with the factor near q that F''(1) gives for the mean."""
    found = descend(OTHER[name], gamma, steps, cells=cells)
    return {
        "part": "other",
        "functional": name,
        "gamma": gamma,
        "w2": list(found.w2),
        "excess": list(found.excess),
        "decreasing": all(b <= a for a, b in pairwise(found.excess)),
        "left": found.excess[-1] / found.excess[0],
        "last_factor": factor(squares(found), found.w2[0] ** 2),
        "gap_median": abs(float(found.gap[len(found.gap) // 2])),
        "gap_end": float(np.abs(found.gap[[0, -1]]).max()),
        "factor_near_q": (1 + gamma * CURVATURE[name]) ** -2,
    }


def draw(rows: Sequence[dict[str, Any]], gamma: float) -> Figure:
    with plt.rc_context(STYLE):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10.5, 3.5), layout="constrained")
        of = {part: [r for r in rows if r["part"] == part and r["gamma"] == gamma] for part in PARTS}
        for row, colour in zip(of["strong"], COLOURS, strict=False):
            relative = [(value / row["w2"][0]) ** 2 for value in row["w2"]]
            n, g = range(len(relative)), row["gamma"] * row["lambda"]
            left.semilogy(n, relative, color=colour, label=row["functional"])
            left.semilogy(n, [(1 + g) ** (-2 * k) for k in n], ":", color=colour, linewidth=1.1)
        left.plot([], [], ":", color="#6b7686", label="(1+γλ)⁻²ⁿ")
        left.set(
            title=f"strongly convex, γ = {gamma:g}", xlabel="n", ylabel="W2², relative", ylim=(1e-9, 1e5)
        )
        left.legend(fontsize=7, loc="upper right")
        for row, colour in zip(of["flat"], COLOURS, strict=False):
            n = range(1, len(row["excess"]))
            middle.loglog(n, row["excess"][1:], color=colour, label=row["functional"])
            middle.loglog(n, row["bound"], ":", color=colour, linewidth=1.1)
        middle.plot([], [], ":", color="#6b7686", label="W2²(p_0, q)/(2γn)")
        middle.set(title=f"convex, γ = {gamma:g}", xlabel="n", ylabel="G(p_n) − G*", ylim=(1e-8, 3e3))
        middle.legend(fontsize=7, loc="upper right")
        for row, colour in zip(of["other"], COLOURS, strict=False):
            right.semilogy(
                [v / row["excess"][0] for v in row["excess"]], color=colour, label=row["functional"]
            )
        right.set(title=f"not convex, γ = {gamma:g}", xlabel="n", ylabel="G(p_n) − G*, relative")
        right.legend()
    return figure


def tables(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    columns: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
        "strong": (
            ("functional", "γ", "λ", "largest factor", "last factor", "(1+γλ)⁻²", "1/(1+γλ)", "1/(1+γλ/2)"),
            (
                "functional",
                "gamma",
                "lambda",
                "largest_factor",
                "last_factor",
                "sharper",
                "contraction",
                "theorem",
            ),
        ),
        "flat": (
            ("functional", "γ", "largest ratio to the bound", "exponent in n", "of the flow"),
            ("functional", "gamma", "largest_ratio", "exponent", "exponent_of_flow"),
        ),
        "other": (
            (
                "functional",
                "γ",
                "G falls at every step",
                "G left",
                "last factor of W2²",
                "near q",
                "gap, median",
                "gap, ends",
            ),
            (
                "functional",
                "gamma",
                "decreasing",
                "left",
                "last_factor",
                "factor_near_q",
                "gap_median",
                "gap_end",
            ),
        ),
    }
    return {
        part: markdown_table(
            header, [[shown(row[name]) for name in names] for row in rows if row["part"] == part]
        )
        for part, (header, names) in columns.items()
    }


def shown(value: Any) -> Any:
    return ("yes" if value else "no") if isinstance(value, bool) else value


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--gammas", type=float, nargs="+", default=GAMMAS)
    options.add_argument("--cells", type=int, default=CELLS)
    options.add_argument("--steps", type=int, default=STEPS)
    options.add_argument("--many-steps", type=int, default=MANY_STEPS)
    args, started = options.parse_args(argv), time.process_time()
    rows = [strong_row(k, g, steps=args.steps, cells=args.cells) for k in STRONG for g in args.gammas]
    rows += [flat_row(k, g, steps=args.many_steps, cells=args.cells) for k in FLAT for g in args.gammas]
    rows += [other_row(k, g, steps=args.steps, cells=args.cells) for k in OTHER for g in args.gammas]
    publish(
        NAME,
        folder=args.folder,
        settings={"cells": args.cells, "steps": args.steps, "many_steps": args.many_steps},
        rows=rows,
        started=started,
        figure=draw(rows, args.gammas[-1]),
        tables=tables(rows),
    )
    for key, table in tables(rows).items():
        print(f"{key}\n{table}\n")


if __name__ == "__main__":
    main()

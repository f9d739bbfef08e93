r"""Where the error of trained steps comes from: width, rows and updates, one at a time.

    eps_n = ‖x + grad log p_n - (T_n^{-1} - id)/gamma_n‖_{p_n},      KL(p_0 | q_0),      n = 1, 2

Approximation (a network too narrow), finite sample (too few rows) and optimisation (too few updates), each
against an ample setting of the other two, on a law whose density is known, so that both numbers are exact up
to the fresh draws that they are averaged over.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, section 3.2 and Assumption 1, eq. (30).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import torch
from learned import first_order_errors, kl_to_truth, train_on_law
from matplotlib.figure import Figure
from publish import COLOURS, STYLE, markdown_table, parser, publish, slope

from jkoflow.blocks.ode.family import NetworkSettings, NeuralODEFamily
from jkoflow.laws import GaussianMixture
from jkoflow.recipe import DescentSettings
from jkoflow.runtime import seed_stream
from jkoflow.schedule import Schedule
from jkoflow.steps.solvers import ProximalSolver

NAME = "error_sources"
GAMMAS = (0.3, math.inf)
BATCH, RATE, PHASE = 512, 5e-3, 1.0
SWEEPS = {"width": (4, 8, 16, 32), "rows": (250, 1000, 4000), "updates": (40, 80, 160, 320)}
"""What is varied, below the ample value of each."""
AMPLE = {"width": 64, "rows": 16_000, "updates": 640}
MEASURED = {"eps_1": "ε₁", "eps_2": "ε₂", "kl_nats": "KL, nats"}
TITLES = {
    "width": "approximation: units a layer",
    "rows": "finite sample: rows",
    "updates": "optimisation: updates a block",
}


def law() -> GaussianMixture:
    """Five round bumps on a circle, of five weights."""
    angle = 2 * math.pi * torch.arange(5, dtype=torch.float64) / 5
    means = 1.3 * torch.stack([angle.cos(), angle.sin()], dim=1)
    return GaussianMixture([0.3, 0.25, 0.2, 0.15, 0.1], means, stds=[0.5] * 5)


def measured(*, width: int, rows: int, updates: int, seed: int, fresh_rows: int) -> dict[str, float]:
    """Train two blocks; first-order error of each and KL, on fresh draws."""
    network = NetworkSettings(width=width, n_frequencies=width // 2, frequency_scale=PHASE / math.sqrt(2))
    solver = ProximalSolver(NeuralODEFamily(network=network), DescentSettings(updates, BATCH, RATE), steps=1)
    done = train_on_law(law(), Schedule(GAMMAS), solver, rows=rows, validation_rows=rows // 4, seed=seed)
    fresh = law().sample(fresh_rows, seed_stream(seed, "fresh rows"))
    kl, kl_se = kl_to_truth(done.flow, law(), fresh)
    first, second = first_order_errors(done.flow, law(), fresh)
    return {
        "eps_1": first,
        "eps_2": second,
        "kl_nats": kl,
        "kl_se_nats": kl_se,
        "cpu_seconds": done.cpu_seconds,
    }


def sweep(
    ample: dict[str, int], sweeps: Mapping[str, Sequence[int]], *, seeds: Sequence[int], fresh_rows: int
) -> list[dict[str, Any]]:
    """A row for each setting and seed; the ample setting, which ends every sweep, is trained once a seed."""
    settings = [ample, *({**ample, name: value} for name, values in sweeps.items() for value in values)]
    found = []
    for setting in settings:
        for seed in seeds:
            found.append({**setting, "seed": seed, **measured(**setting, seed=seed, fresh_rows=fresh_rows)})
            shown = {key: round(found[-1][key], 4) for key in ("eps_1", "eps_2", "kl_nats", "cpu_seconds")}
            print(setting, seed, shown, flush=True)
    return found


def series(
    rows: Sequence[dict[str, Any]], name: str, ample: dict[str, int], key: str
) -> tuple[list[int], list[float], list[float]]:
    """Values of `name` with the others ample, and mean and half the range of `key` over seeds."""
    chosen = [row for row in rows if all(row[other] == ample[other] for other in ample if other != name)]
    values = sorted({row[name] for row in chosen})
    groups = [[row[key] for row in chosen if row[name] == value] for value in values]
    centres = [sum(group) / len(group) for group in groups]
    return values, centres, [(max(group) - min(group)) / 2 for group in groups]


def tables(rows: Sequence[dict[str, Any]], ample: dict[str, int]) -> dict[str, str]:
    """One table of the measured numbers for each sweep, and one of the exponents."""
    made, exponents = {}, []
    for name in ample:
        columns = {key: series(rows, name, ample, key) for key in MEASURED}
        values = columns["eps_1"][0]
        made[name] = markdown_table(
            [name, *MEASURED.values()],
            [
                [value, *(f"{c[1][i]:.3g} ± {c[2][i]:.1g}" for c in columns.values())]
                for i, value in enumerate(values)
            ],
        )
        exponents.append(
            [
                TITLES[name],
                f"{values[0]} to {values[-1]}",
                *(f"{slope(values, column[1]):.2f}" for column in columns.values()),
            ]
        )
    made["exponents"] = markdown_table(["varied", "over", *MEASURED.values()], exponents)
    return made


def draw(rows: Sequence[dict[str, Any]], ample: dict[str, int]) -> Figure:
    """A panel for each sweep, logarithmic on both axes."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 3.5), dpi=130, layout="constrained")
        panels = figure.subplots(1, len(ample), sharey=True)
        for axis, name in zip(panels, ample, strict=True):
            for (key, label), colour, marker in zip(MEASURED.items(), COLOURS, "os^", strict=False):
                values, centres, spread = series(rows, name, ample, key)
                shown = f"{label}: exponent {slope(values, centres):.2f}"
                axis.errorbar(
                    values, centres, yerr=spread, fmt=f"{marker}-", ms=4, color=colour, label=shown,
                    elinewidth=0.8,
                )  # fmt: skip
            axis.set(xscale="log", yscale="log", title=TITLES[name], xlabel=name)
            axis.set_xticks(values, [f"{value:,}" for value in values])
            axis.minorticks_off()
            axis.legend(loc="upper right")
            axis.grid(visible=True, color="#e6e9ee", lw=0.6)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Sweep, publish."""
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=2)
    options.add_argument("--fresh-rows", type=int, default=10_000)
    options.add_argument("--scale", type=float, default=1.0, help="of rows and updates, for a quick look")
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    started = time.process_time()

    def scaled(name: str, value: int) -> int:
        return value if name == "width" else max(20, round(given.scale * value))

    ample = {name: scaled(name, value) for name, value in AMPLE.items()}
    sweeps = {name: [scaled(name, value) for value in values] for name, values in SWEEPS.items()}
    seeds = range(given.seed, given.seed + given.repeats)
    rows = sweep(ample, sweeps, seeds=seeds, fresh_rows=given.fresh_rows)
    settings = {"ample": ample, "batch": BATCH, "rate": RATE, "gammas": [0.3, "free"], "seeds": list(seeds)}
    publish(
        NAME,
        folder=given.folder,
        settings=settings,
        rows=rows,
        started=started,
        figure=draw(rows, ample),
        tables=tables(rows, ample),
    )


if __name__ == "__main__":
    main()

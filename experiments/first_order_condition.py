r"""Appendix D of the paper, Figures A.1 and A.2: the first-order residual while one JKO step is trained.

    p_0 = N((3,3), I),   q = N(0, I),   gamma = 1/2,   exact step p_1 = N((2,2), I)
    xi = x + ∇log p_1(x) - (T_1^0(x) - x)/gamma

With the published settings and five seeds; ‖xi‖² at iterations 0, 20, ..., 200 by the published estimator, in
the published norm and in the right one, by the exact score, and from samples alone.

    python experiments/first_order_condition.py
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from publish import COLOURS, STYLE, markdown_table, parser, publish
from torch import Tensor, nn
from torch.nn.functional import softplus

from jkoflow.blocks import NeuralODEBlock
from jkoflow.blocks.ode.trace import rademacher_probes
from jkoflow.blocks.ode.velocity import VelocityField
from jkoflow.first_order import (
    StepPairs,
    exact_residual,
    kernel_residual,
    norm_of,
    pushed_score,
    transport_gap,
    variational_norm,
)
from jkoflow.functionals import KL, ProximalObjective, Pushed
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles
from jkoflow.runtime import seed_stream

NAME = "first_order_condition"
GAMMA, STEPS, BETA, WIDTH, RATE = 0.5, 5, 20.0, 128, 1e-4
TRAINING_ROWS, BATCH, ITERATIONS, EVERY = 10_000, 2000, 200, 20
START, TARGET = (3.0, 3.0), (2.0, 2.0)
BASE = StandardNormal(2)
SEEDS, HELD_OUT, CLOUD, REPETITIONS = 5, 10_000, 2000, 20
ARROWS = (0, 40, 80, 120, 160, 200)

Arrows = tuple[Tensor, Tensor, Tensor]
"""Rows of p_1, and xi at them by the kernel and by the exact score, each of shape `(n, 2)`."""


class PublishedVelocity(VelocityField):
    """f(x, t) of the paper: a softplus network on x and t, over block time [0, 1]."""

    def __init__(self, *, dim: int, layers: int, generator: torch.Generator) -> None:
        super().__init__(dim=dim)
        self.layers = nn.ModuleList(nn.Linear(*s) for s in pairwise([dim + 1, *[WIDTH] * layers, dim]))
        for layer in self._linear:
            bound = layer.in_features**-0.5  # torch's default law, from a generator
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -bound, bound, generator=generator)

    @property
    def _linear(self) -> Iterator[nn.Linear]:
        yield from self.layers  # type: ignore[misc]  # ModuleList is not generic

    def to_config(self) -> dict[str, Any]:
        return {"kind": "published", "dim": self.dim, "layers": len(self.layers) - 1}

    def forward(self, x: Tensor, t: Tensor | float, context: Tensor | None = None) -> Tensor:
        return self.with_tangents(x, t, x.new_zeros(0, *x.shape), context)[0]

    def with_tangents(
        self, x: Tensor, t: Tensor | float, tangents: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        del context
        *hidden, last = self._linear
        value = torch.cat([x, torch.as_tensor(t).to(x).expand(len(x), 1)], dim=1)
        slope = torch.cat([tangents, tangents.new_zeros(*tangents.shape[:2], 1)], dim=2)
        for layer in hidden:
            before = layer(value)
            value = softplus(before, beta=BETA)
            slope = torch.sigmoid(BETA * before) * (slope @ layer.weight.T)
        return last(value), slope @ last.weight.T


def normal_rows(mean: Sequence[float], n: int, source: torch.Generator) -> Tensor:
    """Draws of N(mean, I), shape `(n, 2)`, float32."""
    return torch.tensor(mean) + torch.randn(n, 2, generator=source)


def training_rows(seed: int) -> Tensor:
    """The 10,000 rows of p_0."""
    return normal_rows(START, TRAINING_ROWS, seed_stream(seed, f"{NAME} training rows"))


def trained(
    seed: int, *, layers: int, iterations: int, batch: int
) -> Iterator[tuple[int, NeuralODEBlock, float]]:
    """The block after 0, 1, ..., `iterations` updates, with the loss of the batch that the next one sees."""
    source, x = seed_stream(seed, NAME), training_rows(seed)
    velocity = PublishedVelocity(dim=2, layers=layers, generator=source)
    block = NeuralODEBlock(velocity, gamma=GAMMA, steps=STEPS)
    objective = ProximalObjective(KL(BASE), GAMMA)
    optimiser = torch.optim.Adam(block.parameters(), lr=RATE)
    queue: list[Tensor] = []
    for iteration in range(iterations + 1):
        queue = queue or list(torch.split(torch.randperm(len(x), generator=source), batch))
        rows = x[queue.pop()]
        y, log_det = block.push_with_trace(rows, None, rademacher_probes(rows, 1, source))
        loss = objective.terms_of(Pushed(Particles(rows), y, log_det)).total
        yield iteration, block, float(loss.detach())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        optimiser.step()


# ── the residual ──


def published_norm(xi: Tensor) -> float:
    """What the published code plots as ‖xi‖²: the mean over rows of sqrt(Σ_i xi_i⁴)."""
    return float(xi.pow(4).sum(dim=1).sqrt().mean())


def kernel_numbers(before: Tensor, after: Tensor) -> tuple[dict[str, float], Tensor]:
    """The published estimator in both norms, and its arrows."""
    xi = kernel_residual(before.double(), after.double(), gamma=GAMMA, base=BASE)
    return {"published": published_norm(xi), "kernel": norm_of(xi).square}, xi


def exact_arrows(block: NeuralODEBlock, x: Tensor) -> tuple[StepPairs, Tensor]:
    """The pairs of a block at rows of p_0, and xi' there from the score of p_0."""
    y, score = pushed_score(block, x, torch.tensor(START).to(x) - x)
    pairs = StepPairs(x.double(), y.double(), GAMMA, BASE)
    return pairs, exact_residual(pairs, score)


def residual_row(
    seed: int, iteration: int, block: NeuralODEBlock, rows: Sequence[Tensor]
) -> tuple[dict[str, Any], Arrows]:
    """‖xi‖² of the block by all estimators, and xi; `rows`: two clouds and the held-out rows, of p_0."""
    before, to_push, held_out = rows
    pairs, xi = exact_arrows(block, to_push)
    by_kernel, kernel_xi = kernel_numbers(before, pairs.after)
    with torch.no_grad():
        images = block.push(held_out)
    exact = norm_of(xi)
    data_only = variational_norm(
        StepPairs(held_out.double(), images.double(), GAMMA, BASE),
        generator=seed_stream(seed, "variational", iteration),
    )
    numbers = {
        "seed": seed,
        "iteration": iteration,
        **by_kernel,
        "exact": exact.square,
        "exact_se": exact.se,
        "variational": data_only.square,
        "variational_se": data_only.se,
        "eps_ratio": data_only.value / exact.value,
        "transport_gap": transport_gap(pairs),
    }
    return numbers, (pairs.after, kernel_xi, xi)


def clouds(seed: int, sizes: Sequence[int]) -> list[Tensor]:
    """Fresh rows of p_0, so many in each cloud."""
    source = seed_stream(seed, f"{NAME} held out")
    return [normal_rows(START, size, source) for size in sizes]


def baseline(repetitions: int, size: int) -> dict[str, float]:
    """The published estimator at the true minimiser, p_1 = N((2,2), I): mean and spread of repetitions."""
    found = []
    for repetition in range(repetitions):
        source = seed_stream(repetition, f"{NAME} baseline")
        numbers, _ = kernel_numbers(normal_rows(START, size, source), normal_rows(TARGET, size, source))
        found.append([numbers["published"], numbers["kernel"]])
    table = torch.tensor(found)
    spread = table.std(dim=0) if repetitions > 1 else torch.zeros(2)
    return {
        "published": float(table[:, 0].mean()),
        "published_sd": float(spread[0]),
        "kernel": float(table[:, 1].mean()),
        "kernel_sd": float(spread[1]),
    }


# ── the pictures ──


def draw(
    rows: Sequence[Mapping[str, Any]],
    floor: Mapping[str, float],
    arrows: Mapping[int, Arrows],
) -> Figure:
    """Figure A.1 as published and as it should be, above Figure A.2 by the kernel and by the exact score."""
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(10.5, 8.2), layout="constrained")
        top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=(1, 1.1)))
        left, right = top.subplots(1, 2)
        first = [row for row in rows if row["seed"] == rows[0]["seed"]]
        at = [row["iteration"] for row in first]
        left.plot(at, [row["published"] for row in first], "o-", color=COLOURS[0], ms=3.5)
        left.axhline(floor["published"], color=COLOURS[0], ls="--", lw=1)
        left.set(
            title="As published, seed 0: kernel estimator, mean of √Σξᵢ⁴", xlabel="iteration", ylabel="“‖ξ‖²”"
        )
        left.annotate(
            f"at the true minimiser {floor['published']:.2f}", (at[0], floor["published"]), (0, 5),
            textcoords="offset points", fontsize=8,
        )  # fmt: skip
        _curves(right, rows, floor)
        panels = bottom.subplots(2, len(arrows), sharex=True, sharey=True, squeeze=False)
        for column, (iteration, (y, by_kernel, exact)) in enumerate(arrows.items()):
            for panel, xi, colour in zip(panels[:, column], (by_kernel, exact), COLOURS[:2], strict=True):
                panel.quiver(*y.T, *xi.T, color=colour, angles="xy", scale_units="xy", scale=2, width=0.006)
                panel.set(aspect="equal", xlim=(-1.5, 7.5), ylim=(-1.5, 7.5))
            panels[0, column].set_title(f"iteration {iteration}")
        panels[0, 0].set_ylabel("ξ by the kernel")
        panels[1, 0].set_ylabel("ξ by the exact score")
        bottom.supxlabel("arrows at half their length, at rows pushed by the block", fontsize=8)
    return figure


def _curves(axes: Axes, rows: Sequence[Mapping[str, Any]], floor: Mapping[str, float]) -> None:
    """‖xi‖² against iterations, one thin line a seed."""
    labels = {"kernel": "kernel estimator", "exact": "exact score", "variational": "samples alone"}
    for colour, (key, label) in enumerate(labels.items()):
        for number, seed in enumerate(sorted({row["seed"] for row in rows})):
            mine = [(row["iteration"], row[key]) for row in rows if row["seed"] == seed and row[key] > 0]
            axes.plot(
                *zip(*mine, strict=True), color=COLOURS[colour], lw=1, marker="o", ms=2.5,
                ls="-" if key != "variational" else ":", label=label if not number else None,
            )  # fmt: skip
    axes.axhline(floor["kernel"], color=COLOURS[0], ls="--", lw=1, label="kernel at the true minimiser")
    axes.axhline(18, color=COLOURS[5], ls=":", lw=1, label="identity map: 18")
    count = len({row["seed"] for row in rows})
    axes.set(title=f"‖ξ‖² by seed, {count} seeds", xlabel="iteration", yscale="log")
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.92))


# ── the experiment ──


def run_seed(
    seed: int, *, layers: int, iterations: int, every: int, batch: int, sizes: Sequence[int], arrows: int
) -> tuple[list[dict[str, Any]], list[float], dict[int, Arrows]]:
    """One training: its residuals, its losses, and arrows at some iterations."""
    held_out = clouds(seed, sizes)
    rows, losses, drawn = [], [], {}
    for iteration, block, loss in trained(seed, layers=layers, iterations=iterations, batch=batch):
        losses.append(loss)
        if iteration % every == 0:
            numbers, xi = residual_row(seed, iteration, block, held_out)
            rows.append({**numbers, "loss": loss})
            if iteration in ARROWS:
                drawn[iteration] = (xi[0][:arrows], xi[1][:arrows], xi[2][:arrows])
    return rows, losses, drawn


def mean_of_last(losses: Sequence[float]) -> float:
    """Mean of the last ten, two passes over the training rows."""
    return sum(losses[-10:]) / len(losses[-10:])


def exact_loss(seed: int) -> float:
    """The loss of the exact step, a shift by (-1, -1), on the training rows of that seed."""
    shift = torch.tensor(START) - torch.tensor(TARGET)
    potential = (training_rows(seed) - shift).square().sum(dim=1).mean() / 2
    return float(potential + shift.square().sum() / (2 * GAMMA))


def table_of(rows: Sequence[Mapping[str, Any]], losses: Mapping[int, Sequence[float]], last: int) -> str:
    """The end of each seed's training."""
    header = ["seed", "loss, last 10", "loss of the exact step", "as published", "kernel", "exact"]
    header += ["samples alone", "eps: samples/exact", "its square", "OT gap"]
    cells = []
    for row in (row for row in rows if row["iteration"] == last):
        seed, ratio = row["seed"], row["eps_ratio"]
        read = f"{row['variational']:.4f} ± {row['variational_se']:.4f}"
        squares = [row["published"], row["kernel"], row["exact"], read]
        cells.append(
            [
                seed,
                mean_of_last(losses[seed]),
                exact_loss(seed),
                *squares,
                ratio,
                ratio**2,
                row["transport_gap"],
            ]
        )
    return markdown_table(header, cells)


def course_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Means over seeds along the training."""
    keys = ("published", "kernel", "exact", "variational")
    cells = []
    for iteration in sorted({row["iteration"] for row in rows}):
        here = [row for row in rows if row["iteration"] == iteration]
        within = sum(0.5 <= row["eps_ratio"] <= 2 for row in here)
        means = [sum(row[key] for row in here) / len(here) for key in ("loss", *keys)]
        cells.append([iteration, *means, f"{within} of {len(here)}"])
    header = [
        "iteration",
        "loss",
        "as published",
        "kernel ‖ξ‖²",
        "exact ‖ξ‖²",
        "samples alone ‖ξ‖²",
        "within 2×",
    ]
    return markdown_table(header, cells)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=SEEDS)
    options.add_argument("--layers", type=int, default=3, help="hidden layers: 2 by the text, 3 by the code")
    options.add_argument("--iterations", type=int, default=ITERATIONS)
    options.add_argument("--batch", type=int, default=BATCH)
    options.add_argument("--cloud", type=int, default=CLOUD, help="rows of each cloud of the kernel")
    options.add_argument("--held-out", type=int, default=HELD_OUT, help="rows of the samples-alone estimate")
    options.add_argument("--repetitions", type=int, default=REPETITIONS, help="of the baseline")
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    started = time.process_time()
    rows: list[dict[str, Any]] = []
    losses: dict[int, list[float]] = {}
    arrows: dict[int, Arrows] = {}
    for seed in range(given.seed, given.seed + given.seeds):
        found, losses[seed], drawn = run_seed(
            seed,
            layers=given.layers,
            iterations=given.iterations,
            every=EVERY,
            batch=given.batch,
            sizes=(given.cloud, given.cloud, given.held_out),
            arrows=120,
        )
        rows += found
        arrows = arrows or drawn
        print(
            f"seed {seed}: exact {found[-1]['exact']:.4f}, samples alone {found[-1]['variational']:.4f}",
            flush=True,
        )
    floor = baseline(given.repetitions, given.cloud)
    last = max(row["iteration"] for row in rows)
    floors = [["kernel ‖ξ‖²", floor["kernel"], floor["kernel_sd"]]]
    floors.append(["as published", floor["published"], floor["published_sd"]])
    publish(
        NAME,
        folder=given.folder,
        settings={
            "gamma": GAMMA, "solver_steps": STEPS, "width": WIDTH, "layers": given.layers, "rate": RATE,
            "training_rows": TRAINING_ROWS, "batch": given.batch, "iterations": given.iterations,
            "cloud": given.cloud, "held_out": given.held_out, "baseline": floor,
        },
        rows=rows,
        started=started,
        figure=draw(rows, floor, arrows),
        tables={
            "end": table_of(rows, losses, last),
            "course": course_of(rows),
            "baseline": markdown_table(["at the true minimiser", "mean", "spread of one"], floors),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()

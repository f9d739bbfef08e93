r"""Ways to break a good flow, each with a size, through the interface that a certificate reads.

    evidence = sabotage(subject, size),    size from plain to slight

A broken block or base law answers like an honest one; what comes out is an `Evidence` of the same type, with
the same rows and the same seed, and no mark of what was done.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from broken_blocks import (
    CoarseInverse,
    InverseOfFewRows,
    LogDetOfFewRows,
    ScaledInverse,
    ScaledLogDet,
    ShiftedInverse,
    SkippedInverse,
    WrongConstant,
)
from torch import Tensor

from jkoflow import JKOFlow
from jkoflow.blocks import Block, NeuralODEBlock
from jkoflow.certify import Evidence
from jkoflow.flow import Flow
from jkoflow.laws import GaussianMixture
from jkoflow.particles import Particles
from jkoflow.runtime import seed_stream

__all__ = ["SABOTAGES", "Sabotage", "Subject", "law"]

WEIGHTS = (0.3, 0.25, 0.2, 0.15, 0.07, 0.03)
RADIUS, SPREAD = 2.0, 0.6
SHEAR = ((1.0, 0.9), (0.0, 0.45))
COPIES_OFF = 1e-3
UNTOUCHED = "untouched"
TRUTH_ROWS = 40_000
OPTIONS = {
    "gamma": {
        "kind": "geometric",
        "first": 0.01,
        "growth": 3.0,
        "cap": 1.0,
        "stop_ratio": None,
        "free_last": True,
    },
    "budget": 12.0,
    "max_blocks": 6,
    "random_state": 0,
}
"""Step sizes are given: automatic ones would be closed by a mixture at once, and leave no block to break."""


def law(weights: Sequence[float] = WEIGHTS) -> GaussianMixture:
    """Gaussians on a sheared hexagon in the plane; a weight of 0 leaves its mode out."""
    kept = [mode for mode, weight in enumerate(weights) if weight > 0]
    shear = torch.tensor(SHEAR, dtype=torch.float64)
    angles = torch.tensor([math.pi / 3 * mode for mode in kept], dtype=torch.float64)
    means = RADIUS * torch.stack([angles.cos(), angles.sin()], dim=1) @ shear.T
    covariance = SPREAD**2 * shear @ shear.T
    return GaussianMixture(
        [weights[mode] for mode in kept], means, covariances=covariance.expand(len(kept), 2, 2)
    )


@dataclass(frozen=True)
class Subject:
    """The flow that is broken, and how it was fitted.

    Arguments:
        folder: Of the fitted models, by name; one that is there is not fitted again.
        fit_rows: Rows of a fit.
        held_out: Rows that a certificate gets.
        options: Of `JKOFlow`.
        seed: Of the certificate.
    """

    folder: Path
    fit_rows: int = 10_000
    held_out: int = 6000
    options: dict[str, Any] = field(default_factory=lambda: dict(OPTIONS))
    seed: int = 0

    def rows(self, part: str, n: int, of: GaussianMixture | None = None) -> Tensor:
        """Rows of the law in data units, shape `(n, 2)`, float64; other parts are independent."""
        return (of or law()).sample(n, seed_stream(self.seed, f"fails safely: {part}")).double()

    def fitted(self, name: str, x: Tensor, **options: Any) -> Evidence:
        """A flow fitted to x, with the rows that every certificate gets."""
        path = self.folder / name
        if not path.exists():
            JKOFlow(**{**self.options, **options}).fit(x.numpy()).save(path)
        model = JKOFlow.load(path)
        rows = torch.as_tensor(model.model_.schema.standardise(self.rows("held out", self.held_out).numpy()))
        return Evidence(model.flow_, Particles(rows.to(model.model_.like)), self.seed)

    def untouched(self) -> Evidence:
        """The good flow."""
        return self.fitted(UNTOUCHED, self.rows("fit", self.fit_rows))

    def true_kl(self) -> float:
        """KL(law‖untouched flow) over fresh rows, nats: for the table alone."""
        self.untouched()
        model, x = JKOFlow.load(self.folder / UNTOUCHED), self.rows("truth", TRUTH_ROWS)
        return float(law().log_prob(x).mean()) - model.score(x.numpy())

    def altered(self, change: Callable[[list[Block]], Sequence[Block]]) -> Evidence:
        """The good flow with other blocks."""
        evidence = self.untouched()
        flow = copy.deepcopy(evidence.flow)
        return replace(evidence, flow=Flow(flow.law, change(list(flow))))

    def moves(self) -> list[tuple[float, int]]:
        """Root mean square displacement of the held-out rows by each block and its number, largest first."""
        evidence = self.untouched()
        assert evidence.held_out is not None
        x, found = evidence.held_out.x, []
        for number, block in enumerate(evidence.flow):
            with torch.no_grad():
                y = block.push(x)
            found.append((float((y - x).square().sum(dim=1).mean().sqrt()), number))
            x = y
        return sorted(found, reverse=True)


Make = Callable[[Subject, float], Evidence | None]
"""What a certificate reads; None where the flow has no such block."""


@dataclass(frozen=True)
class Sabotage:
    """One way to break the flow.

    Arguments:
        name: For files.
        told: What is done, for the table.
        unit: What a size is.
        sizes: From plain to slight.
        make: Does it.
    """

    name: str
    told: str
    unit: str
    sizes: tuple[float, ...]
    make: Make


# ── blocks that answer falsely ──


def _each(kind: Callable[[Block, float], Block]) -> Make:
    return lambda subject, size: subject.altered(lambda blocks: [kind(block, size) for block in blocks])


def _last(kind: Callable[[Block, float], Block]) -> Make:
    return lambda subject, size: subject.altered(lambda blocks: [*blocks[:-1], kind(blocks[-1], size)])


def _first(kind: Callable[[Block, float], Block]) -> Make:
    return lambda subject, size: subject.altered(lambda blocks: [kind(blocks[0], size), *blocks[1:]])


def _largest(change: Callable[[list[Block], int], Sequence[Block]]) -> Make:
    """One block broken: that of the rank `size` among those that move the rows farthest."""

    def make(subject: Subject, size: float) -> Evidence | None:
        ranked = [number for _, number in subject.moves()][round(size) - 1 :]
        return subject.altered(lambda blocks: change(blocks, ranked[0])) if ranked else None

    return make


def _log_det_of_few(subject: Subject, size: float) -> Evidence:
    rows = subject.untouched().held_out
    assert rows is not None
    return subject.altered(lambda blocks: [LogDetOfFewRows(blocks[0], size, rows.x), *blocks[1:]])


def _wrong_constant(subject: Subject, size: float) -> Evidence:
    evidence = subject.untouched()
    return replace(evidence, flow=Flow(WrongConstant(evidence.flow.dim, size), list(evidence.flow)))


# ── blocks that are others than those that were trained ──


def _weights(change: Callable[[Tensor, float, torch.Generator], Tensor]) -> Make:
    """Every trained number changed."""

    def make(subject: Subject, size: float) -> Evidence:
        source = seed_stream(subject.seed, "fails safely: weights")

        def changed(blocks: list[Block]) -> list[Block]:
            for block in blocks:
                for parameter in block.parameters():
                    parameter.data = change(parameter.data, size, source)
            return blocks

        return subject.altered(changed)

    return make


def _jittered(weights: Tensor, size: float, source: torch.Generator) -> Tensor:
    return weights * (1 + size * torch.randn(weights.shape, generator=source))


def _rounded(weights: Tensor, size: float, source: torch.Generator) -> Tensor:
    """To multiples of a share `size` of the largest weight of the layer."""
    del source
    step = size * float(weights.abs().max())
    return (weights / step).round() * step if step > 0 else weights


def _faster(block: Block, size: float) -> Block:
    """The velocity too large by a share `size`, as where one step size is trained and another one used."""
    if isinstance(block, NeuralODEBlock):
        block.velocity.amplitude.mul_(1 + size)  # type: ignore[operator]  # a buffer of MLPVelocity
    return block


def _exchanged(subject: Subject, size: float) -> Evidence | None:
    """The pair of blocks whose exchange changes the map by the rank `size`."""
    evidence = subject.untouched()
    assert evidence.held_out is not None
    flow, x, ends = evidence.flow, evidence.held_out.x, []
    for pair in combinations(range(len(flow)), 2):
        gap = Flow(flow.law, _swapped(list(flow), pair)).push(x) - flow.push(x)
        ends.append((float(gap.square().sum(dim=1).mean()), pair))
    ranked = [pair for _, pair in sorted(ends, reverse=True)][round(size) - 1 :]
    return subject.altered(lambda blocks: _swapped(blocks, ranked[0])) if ranked else None


def _swapped(blocks: list[Block], pair: tuple[int, int]) -> list[Block]:
    order = list(range(len(blocks)))
    order[pair[0]], order[pair[1]] = pair[1], pair[0]
    return [blocks[number] for number in order]


def _wrong_scale(subject: Subject, size: float) -> Evidence:
    """Rows standardised by a scale too large by a share `size`."""
    evidence = subject.untouched()
    assert evidence.held_out is not None
    return replace(evidence, held_out=Particles(evidence.held_out.x / (1 + size)))


# ── flows that learned something else ──


def _mode_lost(subject: Subject, size: float) -> Evidence:
    weights = [0.0 if weight == size else weight for weight in WEIGHTS]
    return subject.fitted(f"without-{size:g}", subject.rows("fit", subject.fit_rows, law(weights)))


def _overfitted(subject: Subject, size: float) -> Evidence:
    """Fitted to few rows and near copies of them, so that early stopping looks at the rows themselves."""
    rows = subject.rows("fit", round(size))
    copies = rows.repeat(math.ceil(subject.fit_rows / len(rows)), 1)[: subject.fit_rows]
    jitter = torch.randn(copies.shape, generator=seed_stream(subject.seed, "copies"), dtype=torch.float64)
    return subject.fitted(f"copies-{size:g}", copies + COPIES_OFF * jitter)


def _noisy(subject: Subject, size: float) -> Evidence:
    rows = subject.rows("fit", subject.fit_rows)
    noise = torch.randn(rows.shape, generator=seed_stream(subject.seed, "noise"), dtype=torch.float64)
    return subject.fitted(f"noise-{size:g}", rows + size * noise)


def _stopped_early(subject: Subject, size: float) -> Evidence:
    """Fitted in a share `size` of the time."""
    rows = subject.rows("fit", subject.fit_rows)
    return subject.fitted(f"stopped-{size:g}", rows, budget=size * subject.options["budget"])


def _small_steps(subject: Subject, size: float) -> Evidence:
    rows = subject.rows("fit", subject.fit_rows)
    return subject.fitted(f"gamma-{size:g}", rows, gamma=size, objective="jko")


def _dropped(blocks: list[Block], number: int) -> list[Block]:
    return [*blocks[:number], *blocks[number + 1 :]]


def _one(kind: Callable[[Block, float], Block]) -> Callable[[list[Block], int], Sequence[Block]]:
    return lambda blocks, number: [
        kind(block, 1.0) if position == number else block for position, block in enumerate(blocks)
    ]


_RANKS = "rank of the block by how far it moves the rows"
_RELATIVE = "relative"

SABOTAGES: tuple[Sabotage, ...] = (
    Sabotage(
        "log-det sign",
        "log-determinants times 1 - size (2 flips the sign)",
        _RELATIVE,
        (2.0, 0.1, 1e-3, 1e-5, 1e-6, 1e-7),
        _each(ScaledLogDet),
    ),
    Sabotage(
        "log-det of few rows",
        "one log-determinant 1 nat too large in a corner",
        "share of the rows",
        (0.5, 0.1, 0.02, 0.005, 0.001),
        _log_det_of_few,
    ),
    Sabotage(
        "log-det skipped", "a block left out of log_prob", _RANKS, (1, 2, 3), _largest(_one(ScaledLogDet))
    ),
    Sabotage(
        "wrong constant",
        "density of the base law too high by a constant",
        "nats",
        (0.5, 0.2, 0.1, 0.05, 0.02),
        _wrong_constant,
    ),
    Sabotage("block skipped", "a block left out everywhere", _RANKS, (1, 2, 3), _largest(_dropped)),
    Sabotage(
        "inverse skipped",
        "a block left out on the way back",
        _RANKS,
        (1, 2, 3),
        _largest(_one(SkippedInverse)),
    ),
    Sabotage(
        "biased inverse",
        "every sample shifted",
        "standardised units",
        (0.1, 1e-2, 1e-3, 1e-4, 1e-5),
        _first(ShiftedInverse),
    ),
    Sabotage(
        "inverse of few rows",
        "some samples shifted by 1",
        "share of the samples",
        (0.5, 0.1, 0.02, 0.01, 0.005),
        _last(InverseOfFewRows),
    ),
    Sabotage(
        "cold samples",
        "base noise shrunk before it is pulled",
        _RELATIVE,
        (0.5, 0.1, 1e-2, 1e-3, 1e-4),
        _last(ScaledInverse),
    ),
    Sabotage(
        "coarse inverse",
        "the inverse integrated backward once, not corrected",
        "steps per step",
        (1, 2, 4, 8),
        _each(CoarseInverse),
    ),
    Sabotage(
        "wrong scale",
        "rows standardised by too large a scale",
        _RELATIVE,
        (1.0, 0.3, 0.1),
        _wrong_scale,
    ),
    Sabotage(
        "wrong gamma, deployed",
        "velocities larger than trained",
        _RELATIVE,
        (1.0, 0.3, 0.1),
        lambda subject, size: subject.altered(lambda blocks: [_faster(block, size) for block in blocks]),
    ),
    Sabotage(
        "shuffled blocks",
        "two blocks exchanged",
        "rank of the pair by what it changes",
        (1, 2, 3),
        _exchanged,
    ),
    Sabotage("weights jittered", "noise on every weight", _RELATIVE, (3.0, 1.0, 0.3), _weights(_jittered)),
    Sabotage(
        "weights rounded",
        "weights rounded to a grid",
        "step over the largest weight of a layer",
        (1.0, 0.5, 0.2),
        _weights(_rounded),
    ),
    Sabotage(
        "too few steps",
        "fit stopped early",
        "share of its time",
        (0.02, 0.1, 0.3),
        _stopped_early,
    ),
    Sabotage(
        "wrong gamma, trained", "fitted with too small a step size", "gamma", (0.003, 0.03), _small_steps
    ),
    Sabotage(
        "mode lost", "fitted without one of six modes", "share of the mode", (0.3, 0.15, 0.03), _mode_lost
    ),
    Sabotage("overfit", "fitted to few rows and near copies of them", "rows", (100, 500, 2000), _overfitted),
    Sabotage("noisy data", "fitted to rows with noise added", "data units", (1.0, 0.3, 0.1), _noisy),
)

r"""How many solver steps a trained field's map needs: few, but so many that it can be inverted and scored.

    steps = fewest with NLL(steps) - NLL(2 steps) <= max(0.002, 2 % of the gain), no fold, every row inverted

A map that folds has a smaller NLL than any density, so that no likelihood warns of it. Source: ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jkoflow.blocks import DETERMINANT_DIM, NeuralODEBlock, default_tolerance
from jkoflow.flow import push_block_with_log_det
from jkoflow.laws import Law
from jkoflow.particles import Particles
from jkoflow.step import Step

__all__ = [
    "Chosen",
    "invertible",
    "judged_rows",
    "nll_after",
    "replace_steps",
    "rows_folded",
    "rows_not_inverted",
    "unfolded",
    "with_checked_trace",
    "with_chosen_steps",
    "with_steps_doubled",
]

_JUDGE_ENTRIES, _JUDGE_ROWS = 2**18, 64
_SOLVER_STEPS = (1, 2, 4)
_MOST_SOLVER_STEPS = 32
_SOLVER_TOLERANCE_NATS = 2e-3
_SOLVER_TOLERANCE_SHARE = 0.02
_TRACE_ROWS, _TRACE_CHUNK, _TRACE_DOUBLINGS = 256, 16, 6
_TRACE_TOLERANCE_NATS = 1e-3
_INVERTED_ROWS = 1024
_FOLD_TANGENTS = 2**15


def judged_rows(validation: Particles) -> Particles:
    """The held-out rows that decisions inside a step look at: as many as d tangents each leave affordable."""
    return validation.rows(slice(0, max(_JUDGE_ROWS, _JUDGE_ENTRIES // validation.dim**2)))


def nll_after(block: NeuralODEBlock, base: Law, judged: Particles) -> float:
    """E[V(T(x))] - E[log|det dT(x)|]: the held-out NLL up to what earlier blocks fixed."""
    y, log_det = push_block_with_log_det(block, judged)
    return float((base.potential(y) - log_det).mean())


@dataclass(frozen=True)
class Chosen:
    """A block with its held-out NLL, as `nll_after` has it, and how many rows its inverse misses."""

    block: NeuralODEBlock
    nll: float
    missed: int


def invertible(block: NeuralODEBlock, step: Step) -> NeuralODEBlock:
    """The block, at more solver steps where its map cannot be inverted."""
    judged = judged_rows(step.validation)
    missed, nll = rows_not_inverted(block, step, judged), nll_after(block, step.base, judged)
    return with_steps_doubled(Chosen(block, nll, missed), step, judged).block


def with_chosen_steps(block: NeuralODEBlock, step: Step, judged: Particles) -> Chosen:
    """The same field at the fewest solver steps that cost little and that every row can be inverted at.

    Little is 2 % of what the block gains, and never less than 0.002 nats: what a coarse map loses the next
    block sees and mends. Where none of the usual numbers of steps inverts every row, they are doubled: the
    field's own flow is invertible, and a map that folds has a smaller NLL than any density.
    """
    identity_nll = float(step.base.potential(judged.x).mean())
    candidates = [replace_steps(block, steps) for steps in _SOLVER_STEPS]
    nll, affordable = nll_after(candidates[0], step.base, judged), []
    for candidate, finer in zip(candidates, [*candidates[1:], None], strict=True):
        finer_nll = nll if finer is None else nll_after(finer, step.base, judged)
        little = max(_SOLVER_TOLERANCE_NATS, _SOLVER_TOLERANCE_SHARE * (identity_nll - finer_nll))
        if nll - finer_nll <= little:
            affordable.append(Chosen(candidate, nll, rows_not_inverted(candidate, step, judged)))
            if affordable[-1].missed == 0:
                return affordable[-1]
        nll = finer_nll
    # the finest costs nothing against itself; one whose NLL is no number is left to the keep rule
    best = min(affordable, key=lambda choice: choice.missed, default=Chosen(candidates[0], nll, len(judged)))
    return with_steps_doubled(best, step, judged) if math.isfinite(best.nll) else best


def with_steps_doubled(chosen: Chosen, step: Step, judged: Particles) -> Chosen:
    """The block at twice the steps, and so on, until no row is missed; the one that misses fewest."""
    fewest, block, missed = chosen.missed, chosen.block, chosen.missed
    best = block
    while missed and block.steps < _MOST_SOLVER_STEPS:
        block = replace_steps(block, 2 * block.steps)
        missed = rows_not_inverted(block, step, judged)
        if missed < fewest:
            best, fewest = block, missed
    return chosen if best is chosen.block else Chosen(best, nll_after(best, step.base, judged), fewest)


def rows_not_inverted(block: NeuralODEBlock, step: Step, judged: Particles) -> int:
    """How many rows the discrete map's inverse misses, or at how many the map is folded: det dT < 0.

    Inverted are held-out images, the same a quarter further out, and for a free step, which should end at q,
    draws of q itself and further out: a coarse map can fold where no particle ever was. The sign of the
    determinant is looked at in the held-out rows and in these inverse images.
    """
    with torch.no_grad():
        part = judged.rows(slice(0, _INVERTED_ROWS))
        image = block.push(part.x, part.context)
        ends = Particles(torch.cat([image, 1.25 * image]), _repeated(part.context, 2))
        if block.free:
            times = 4 * _INVERTED_ROWS // len(part)
            context = _repeated(part.context, times)
            noise = step.base.sample(times * len(part), step.stream("inverted rows")).to(image)
            reach = torch.linspace(1, 1.4, times).to(image).repeat_interleave(len(part))[:, None]
            ends = Particles(reach * noise, context)
        inverse = block.invert(ends.x, ends.context)
        missed = int((inverse.error > 10 * default_tolerance(image.dtype)).sum())
        starts = Particles(inverse.x, ends.context)
        return missed + rows_folded(block, part) + rows_folded(block, starts)


def unfolded(block: NeuralODEBlock, rows: Particles) -> NeuralODEBlock:
    """The block at the fewest doublings of its solver steps at which it folds at none of the rows."""
    with torch.no_grad():
        while rows_folded(block, rows) and block.steps < _MOST_SOLVER_STEPS:
            block = replace_steps(block, 2 * block.steps)
    return block


def rows_folded(block: NeuralODEBlock, rows: Particles) -> int:
    """At how many rows det dT < 0; of very many, some are looked at, beyond `DETERMINANT_DIM` none."""
    if block.dim > DETERMINANT_DIM:
        return 0
    every = max(1, len(rows) * block.dim // _FOLD_TANGENTS)
    looked_at = rows.rows(slice(None, None, every))
    jacobian = block.push_with_jacobian(looked_at.x, looked_at.context)[1]
    return int((torch.linalg.slogdet(jacobian)[0] < 0).sum())


def _repeated(context: Tensor | None, times: int) -> Tensor | None:
    return None if context is None else context.repeat(times, 1)


def replace_steps(
    block: NeuralODEBlock, steps: int, *, trace_gap_nats: float | None = None
) -> NeuralODEBlock:
    """A block of the same field and step size with another number of solver steps."""
    return NeuralODEBlock(block.velocity, gamma=block.gamma, steps=steps, trace_gap_nats=trace_gap_nats)


@torch.no_grad()
def with_checked_trace(block: NeuralODEBlock, judged: Particles) -> NeuralODEBlock:
    """Beyond `DETERMINANT_DIM`, double the steps until trace and determinant agree to 0.001 nats.

    The mean absolute difference that was reached, on 256 rows, is stored with the block.
    """
    if block.dim <= DETERMINANT_DIM:
        return block
    rows = judged.rows(slice(0, _TRACE_ROWS))
    for doubling in range(_TRACE_DOUBLINGS + 1):
        candidate = replace_steps(block, block.steps * 2**doubling)
        gaps = []
        for part in rows.chunks(_TRACE_CHUNK):
            determinant = torch.linalg.slogdet(candidate.push_with_jacobian(part.x, part.context)[1])[1]
            trace = candidate.push_with_log_det(part.x, part.context)[1]
            gaps.append((trace - determinant).abs())
        gap = float(torch.cat(gaps).mean())
        if gap < _TRACE_TOLERANCE_NATS:
            break
    return replace_steps(block, candidate.steps, trace_gap_nats=gap)

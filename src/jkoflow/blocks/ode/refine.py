r"""How many solver steps a trained field's map needs: few, but so many that it can be inverted and scored.

    steps = fewest with G(steps) - G(2 steps) <= max(0.002 nats, 2 % of the gain), no fold, every row inverted

Source: ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from jkoflow.blocks.judge import Judge, rows_folded, rows_not_inverted, value_after

if TYPE_CHECKING:
    from jkoflow.blocks.ode.block import NeuralODEBlock

__all__ = ["checked_trace", "fewest_steps", "invertible", "replace_steps", "unfolded"]


@dataclass(frozen=True)
class _Candidate:
    """A block, and how many rows its inverse misses."""

    block: NeuralODEBlock
    missed: int


def replace_steps(
    block: NeuralODEBlock, steps: int, *, trace_gap_nats: float | None = None
) -> NeuralODEBlock:
    """A block of the same field and step size with another number of solver steps."""
    return type(block)(block.velocity, gamma=block.gamma, steps=steps, trace_gap_nats=trace_gap_nats)


def invertible(block: NeuralODEBlock, judge: Judge) -> NeuralODEBlock:
    """The block, at more solver steps where its map cannot be inverted."""
    return _doubled(_Candidate(block, rows_not_inverted(block, judge)), judge)


def fewest_steps(block: NeuralODEBlock, judge: Judge) -> NeuralODEBlock:
    """The same field at the fewest solver steps that cost little and that every row can be inverted at.

    Where none of the usual numbers of steps inverts every row, they are doubled: the field's own flow is
    invertible, and a map that folds has a smaller NLL than any density.
    """
    before, rules = judge.before(), judge.refinement
    candidates = [replace_steps(block, steps) for steps in rules.usual]
    value, affordable = value_after(candidates[0], judge), list[_Candidate]()
    for candidate, finer in zip(candidates, [*candidates[1:], None], strict=True):
        finer_value = value if finer is None else value_after(finer, judge)
        little = max(rules.tolerance_nats, rules.tolerance_share * (before - finer_value))
        if value - finer_value <= little:
            affordable.append(_Candidate(candidate, rows_not_inverted(candidate, judge)))
            if affordable[-1].missed == 0:
                return affordable[-1].block
        value = finer_value
    # the finest costs nothing against itself, unless its value is no number; then the keep rule drops it
    if not affordable:
        return candidates[0]
    return _doubled(min(affordable, key=lambda choice: choice.missed), judge)


def _doubled(chosen: _Candidate, judge: Judge) -> NeuralODEBlock:
    """The block at twice the steps, and so on, until no row is missed; the one that misses fewest."""
    best, block, missed = chosen, chosen.block, chosen.missed
    while missed and block.steps < judge.refinement.most:
        block = replace_steps(block, 2 * block.steps)
        missed = rows_not_inverted(block, judge)
        if missed < best.missed:
            best = _Candidate(block, missed)
    return best.block


def unfolded(block: NeuralODEBlock, judge: Judge) -> NeuralODEBlock:
    """The block at the fewest doublings of its solver steps at which it folds at none of the judge's rows."""
    rules = judge.refinement
    with torch.no_grad():
        while rows_folded(block, judge.rows, judge.check) > 0 and block.steps < rules.most:
            block = replace_steps(block, 2 * block.steps)
    return block


@torch.no_grad()
def checked_trace(block: NeuralODEBlock, judge: Judge) -> NeuralODEBlock:
    """The steps doubled until trace and determinant agree, for a block that is scored by its trace.

    The mean absolute difference that was reached is stored with the block.
    """
    rules = judge.refinement
    rows = judge.held_out.rows(slice(0, rules.trace_rows))
    for doubling in range(rules.trace_doublings + 1):
        candidate = replace_steps(block, block.steps * 2**doubling)
        gaps = []
        for part in rows.chunks(rules.trace_chunk):
            determinant = torch.linalg.slogdet(candidate.push_with_jacobian(part.x, part.context)[1])[1]
            trace = candidate.push_with_log_det(part.x, part.context)[1]
            gaps.append((trace - determinant).abs())
        gap = float(torch.cat(gaps).double().mean())
        if gap < rules.trace_tolerance_nats:
            break
    return replace_steps(block, candidate.steps, trace_gap_nats=gap)

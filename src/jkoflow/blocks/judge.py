r"""What decides how finely a block's map is computed: validation rows, and whether it can be inverted.

    missed = rows whose inverse misses the tolerance + rows at which det dT < 0

A map that folds has a smaller negative log-likelihood than any density, so that no likelihood warns of it.
Source: ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jkoflow.blocks.base import Block, default_tolerance
from jkoflow.blocks.log_det import push_block_with_log_det
from jkoflow.particles import Particles

__all__ = ["InverseCheck", "Judge", "Refinement", "rows_folded", "rows_not_inverted", "value_after"]

Value = Callable[[Particles, Tensor, Tensor], Tensor]
"""G at each of the rows `(n,)`, nats, from the rows, their images and their log-determinants."""


@dataclass(frozen=True)
class InverseCheck:
    """How the inverse of a map is tried.

    Arguments:
        rows: Most validation rows at which folds are looked for, and whose images are inverted if the block
            is not free.
        further_out: Factor by which these images are moved away from the origin to be inverted a second time.
        free_rows: Most draws of the law at the end of the flow that are inverted, in place of images, where
            the block is free.
        free_reach: Factor by which the farthest of those draws are moved outwards.
        tolerances: The largest error, in round-trip tolerances of the dtype, at which a row counts as
            inverted.
        fold_tangents: Tangents that the sign of the determinant is computed from; of more rows some are
            looked at.
        largest_dim: Columns beyond which no determinant is computed, and no fold is looked for.
    """

    rows: int = 1024
    further_out: float = 1.25
    free_rows: int = 4096
    free_reach: float = 1.4
    tolerances: float = 10.0
    fold_tangents: int = 2**15
    largest_dim: int = 128


@dataclass(frozen=True)
class Refinement:
    """The rules by which a block with a solver chooses its number of solver steps.

    Arguments:
        usual: Numbers of Runge-Kutta steps that are tried, fewest first, each with the next finer one beside
            it.
        most: Steps at which doubling ends, whatever the map's inverse misses then.
        tolerance_nats: What a map may lose, in the value that the step descends, against twice its steps.
        tolerance_share: The same as a share of what the block gains: what a coarse map loses, the next block
            sees and mends (measured on held-out rows, docs/performance.md).
        trace_rows: Validation rows on which trace and determinant are compared, where scores use the trace.
        trace_chunk: Rows of them whose Jacobians are held at once.
        trace_doublings: How often the steps are doubled at most for the trace's sake.
        trace_tolerance_nats: Mean difference of trace and determinant for one block at which doubling ends.
    """

    usual: tuple[int, ...] = (1, 2, 4)
    most: int = 32
    tolerance_nats: float = 2e-3
    tolerance_share: float = 0.02
    trace_rows: int = 256
    trace_chunk: int = 16
    trace_doublings: int = 6
    trace_tolerance_nats: float = 1e-3


@dataclass(frozen=True)
class Judge:
    """What a block is judged by while its map is chosen.

    Arguments:
        held_out: All validation samples of p_{n-1}.
        rows: Those of them that decisions inside a step look at.
        value: G at each of them after a block, up to what the block cannot change, nats.
        draws: Draws of the law at the end of the flow, as many as asked for, shape `(m, d)`.
        check: How its inverse is tried.
        refinement: How it chooses solver steps.
    """

    held_out: Particles
    rows: Particles
    value: Value
    draws: Callable[[int], Tensor]
    check: InverseCheck = field(default_factory=InverseCheck)
    refinement: Refinement = field(default_factory=Refinement)

    def before(self) -> float:
        """The mean of G at the rows as they are, nats."""
        rows = self.rows
        return float(rows.average(self.value(rows, rows.x, rows.x.new_zeros(len(rows)))).detach())


def value_after(block: Block, judge: Judge) -> float:
    """The mean of G at the rows after the block, nats; for KL the validation NLL up to a constant."""
    image, log_det = push_block_with_log_det(block, judge.rows)
    return float(judge.rows.average(judge.value(judge.rows, image, log_det)).detach())


@torch.no_grad()
def rows_not_inverted(block: Block, judge: Judge) -> int:
    """Count the rows that the discrete map's inverse misses, and those at which the map folds: det dT < 0.

    Where the block is not free, the images of validation rows are inverted, and the same images a quarter
    further out. A free block should end at the law itself, so that draws of that law are inverted instead, up
    to 1.4 times as far out: a coarse map can fold where no particle ever was. The sign of the determinant is
    computed at the validation rows and at these inverse images.
    """
    check, part = judge.check, judge.rows.rows(slice(0, judge.check.rows))
    image = block.push(part.x, part.context)
    if not block.free:
        ends = Particles(torch.cat([image, check.further_out * image]), _repeated(part.context, 2))
    else:
        times = check.free_rows // len(part)
        noise = judge.draws(times * len(part)).to(image)
        reach = torch.linspace(1, check.free_reach, times).to(image).repeat_interleave(len(part))[:, None]
        ends = Particles(reach * noise, _repeated(part.context, times))
    inverse = block.invert(ends.x, ends.context)
    missed = int((inverse.error > check.tolerances * default_tolerance(image.dtype)).sum())
    starts = Particles(inverse.x, ends.context)
    return missed + rows_folded(block, part, check) + rows_folded(block, starts, check)


def rows_folded(block: Block, rows: Particles, check: InverseCheck) -> int:
    """At how many rows det dT < 0; of very many rows some are looked at, of very many columns none."""
    if block.dim > check.largest_dim:
        return 0
    every = max(1, len(rows) * block.dim // check.fold_tangents)
    looked_at = rows.rows(slice(None, None, every))
    jacobian = block.push_with_jacobian(looked_at.x, looked_at.context)[1]
    return int((torch.linalg.slogdet(jacobian)[0] < 0).sum())


def _repeated(context: Tensor | None, times: int) -> Tensor | None:
    return None if context is None else context.repeat(times, 1)

r"""The inverse of a block's map, from an approximate inverse and the map itself, row by row.

    T(B(z)) = y  by Broyden's method in z, from B ~ T^{-1};    then T(x) = y  by Newton's method in x

Newton's method takes the rows that Broyden's leaves above the tolerance. With B nearly the inverse, T(B(.))
is nearly the identity, which is the Jacobian that Broyden's method starts from. A row that misses the
tolerance is returned with its error, the smallest that was reached. Rows that are done stay in their group
and are masked: what a product of matrices rounds to depends on its size, and a row's numbers must not depend
on other rows. Source: Kelley (1995), "Iterative Methods for Linear and Nonlinear Equations", section 7.3, for
the form that keeps nothing but steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from jkoflow.blocks.base import Block, Inverse

__all__ = ["InverseSearch", "broyden_step"]

Guess = Callable[[Tensor, Tensor | None], Tensor]
"""B: an approximate inverse image of rows `(n, d)`, given their context."""


class _Found(NamedTuple):
    """How far the inversion of some rows has come.

    Arguments:
        best: The best inverse so far.
        z: Corrected images.
        active: Which rows go on.
        steps: Broyden's steps of z so far and the next one, each `(n, d)`, zero where a row was done.
    """

    best: Inverse
    z: Tensor
    active: Tensor
    steps: tuple[Tensor, ...]

    def rows(self, index: Tensor) -> _Found:
        best = Inverse(self.best.x[index], self.best.error[index])
        return _Found(best, self.z[index], self.active[index], tuple(step[index] for step in self.steps))


@dataclass(frozen=True)
class InverseSearch:
    """How a map is inverted.

    Arguments:
        corrections_of_all: Most Broyden steps taken with all rows at once; after them most rows are inverted.
        corrections: Most further Broyden steps of the rows that still miss the tolerance.
        together: Number of these rows in one group; the last group is filled up with copies of its first row.
        newton_steps: Most Newton steps of a row that Broyden's method does not bring to the tolerance.
        dampings: Shares of one of Newton's steps that are tried, until one brings the row closer.
        least_pivot: Pivot of a rank-one update below which the update is left out.
    """

    corrections_of_all: int = 2
    corrections: int = 12
    together: int = 64
    newton_steps: int = 30
    dampings: tuple[float, ...] = (1.0, 0.25, 0.05)
    least_pivot: float = 0.1

    @torch.no_grad()
    def invert(self, block: Block, guess: Guess, y: Tensor, context: Tensor | None, goal: float) -> Inverse:
        """The x with T(x) = y, each row to an error of `goal` where it can be reached.

        Arguments:
            block: The block with the map T; its Jacobian is asked for where corrections do not suffice.
            guess: B.
            y: Shape `(n, d)`.
            context: Shape `(n, c)`, or None.
            goal: Round-trip error, standardised units.
        """
        x = guess(y, context)
        residual = y - block.push(x, context)
        best = Inverse(x, _length(residual))
        active = best.error > goal
        first = _Found(best, y, active, (torch.where(active[:, None], residual, 0.0),))
        found = self._corrected(block, guess, first, y, context, goal, most=self.corrections_of_all)
        x, error = found.best.x, found.best.error
        missed = (error > goal).nonzero().squeeze(1)
        for start in range(0, len(missed), self.together):
            part = missed[start : start + self.together]
            rows = torch.cat([part, part[:1].expand(self.together - len(part))])
            given = None if context is None else context[rows]
            search = self._corrected(
                block, guess, found.rows(rows), y[rows], given, goal, most=self.corrections
            )
            refined = self._newton(block, search.best, y[rows], given, goal)
            x[rows], error[rows] = refined.x, refined.error
        return Inverse(x, error)

    def _corrected(
        self,
        block: Block,
        guess: Guess,
        found: _Found,
        y: Tensor,
        context: Tensor | None,
        goal: float,
        *,
        most: int,
    ) -> _Found:
        """At most so many corrections of the rows that are active."""
        best, z, active, steps = found
        for _ in range(most):
            if not active.any():
                break
            z = z + steps[-1]
            candidate = guess(z, context)
            residual = y - block.push(candidate, context)
            best, improved = _better(best, candidate, _length(residual), active)
            active = improved & (best.error > goal)
            step = broyden_step(residual, steps, least_pivot=self.least_pivot)
            steps = (*steps, torch.where(active[:, None], step, 0.0))
        return _Found(best, z, active, steps)

    def _newton(self, block: Block, best: Inverse, y: Tensor, context: Tensor | None, goal: float) -> Inverse:
        active = best.error > goal
        for _ in range(self.newton_steps):
            if not active.any():
                break
            image, jacobian = block.push_with_jacobian(best.x, context)
            move, singular = torch.linalg.solve_ex(jacobian, y - image)
            start, move, waiting = best.x, torch.where(singular[:, None] > 0, 0.0, move), active
            for damping in self.dampings:
                candidate = start + damping * move
                error = _length(y - block.push(candidate, context))
                best, closer = _better(best, candidate, error, waiting)
                waiting = waiting & ~closer
                if not waiting.any():
                    break
            active = active & ~waiting & (best.error > goal)
        return best


def broyden_step(residual: Tensor, steps: Sequence[Tensor], *, least_pivot: float = 0.1) -> Tensor:
    """The step after `steps` that Broyden's updates of the identity ask for, each row by itself."""
    step = residual
    for earlier, later in pairwise(steps):
        step = step + later * _share(step, earlier)
    pivot = 1 - _share(step, steps[-1])
    return torch.where(pivot.abs() < least_pivot, step, step / pivot)


def _share(step: Tensor, along: Tensor) -> Tensor:
    """step . along / |along|^2 of each row, shape `(n, 1)`; 0 where `along` is."""
    square = along.square().sum(dim=1, keepdim=True)
    return (step * along).sum(dim=1, keepdim=True) / square.clamp_min(torch.finfo(step.dtype).tiny)


def _length(residual: Tensor) -> Tensor:
    """Norm of each row; infinite where a number is not one, so that it never counts as good."""
    length: Tensor = residual.norm(dim=1)
    return length.nan_to_num(nan=torch.inf)


def _better(best: Inverse, candidate: Tensor, error: Tensor, active: Tensor) -> tuple[Inverse, Tensor]:
    """`best` with the active rows that `candidate` improves, and which those are."""
    improved = active & (error < best.error)
    x = torch.where(improved[:, None], candidate, best.x)
    return Inverse(x, torch.where(improved, error, best.error)), improved

"""A family of blocks: how the untrained block of a step is made, and what a fit may choose about it.

    family.new(rows, gamma) = the identity, sized to the particles that it will move

A step finds its block in the way that the family allows: by a closed form where there is one, by regression
on a path where the block is the flow of a velocity field, and by descent on the proximal objective in any
case. Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (20) and (25).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from jkoflow.blocks.base import Block
from jkoflow.laws import Law
from jkoflow.particles import Particles

__all__ = ["PLAIN", "Family", "Start"]


@dataclass(frozen=True)
class Start:
    """What a family may know of the training of a new block, to size it by.

    Arguments:
        variant: One of the family's `variants`, of a block that is started by regression; None for a block
            that descends on the objective from the identity.
        n_rows: Training rows of the fit, where the block is trained on a part of them; None where on all.
        steps: Solver steps to begin with, where there is a solver.
    """

    variant: str | None = None
    n_rows: int | None = None
    steps: int = 1


PLAIN = Start()
"""Of a block that descends on the objective from the identity."""


class Family(ABC):
    """A kind of block.

    Attributes:
        block: The class of its blocks.
        variants: Names of what pilot fits choose among, the first where there is no time to choose.
        follows_paths: Whether a block is the flow of a velocity field, which regression on a path can fit.
    """

    block: ClassVar[type[Block]]
    variants: tuple[str, ...] = ("",)
    follows_paths: ClassVar[bool] = False

    @abstractmethod
    def new(
        self, rows: Particles, gamma: float, start: Start = PLAIN, *, generator: torch.Generator
    ) -> Block:
        """The block of a step before it is trained: the identity map.

        Arguments:
            rows: Samples of p_{n-1}; the block has their columns, context, dtype and device.
            gamma: Step size of the proximal step; infinite for a free step.
            start: What is known of its training.
            generator: Source of initial weights.
        """

    def has_closed_form(self, law: Law) -> bool:
        """Whether the minimiser of the proximal objective of KL(. | law) over the family is known."""
        del law
        return False

    def in_closed_form(self, rows: Particles, gamma: float, law: Law) -> Block:
        """That minimiser, where `has_closed_form`.

        Arguments:
            rows: Samples of p_{n-1}.
            gamma: Step size; infinite for a free step.
            law: q of KL(. | q).
        """
        raise NotImplementedError(f"{type(self).__name__} has no closed form")

r"""Autoregressive blocks as a family: how large the network and the mixtures of a step are.

    width = clip(8 d, 128, 512),    fixed components = clip(192/d, 6, 24),    moving ones 6

Source: measured on held-out rows of training tables, docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from jkoflow.blocks.autoregressive.block import AutoregressiveBlock
from jkoflow.blocks.autoregressive.conditionals import ConditionalsShape
from jkoflow.blocks.autoregressive.leaf_rules import LeafRules
from jkoflow.blocks.autoregressive.start import StartRules, start_conditionals
from jkoflow.blocks.base import Block
from jkoflow.blocks.family import PLAIN, Family, Start
from jkoflow.blocks.mixture import MixtureBlock
from jkoflow.errors import InputError
from jkoflow.laws import Background
from jkoflow.particles import Particles
from jkoflow.storage.entries import brief

__all__ = ["AutoregressiveFamily", "AutoregressiveRules"]


@dataclass(frozen=True)
class AutoregressiveRules:
    """The sizes of autoregressive blocks.

    Arguments:
        width: Units of each hidden layer: the least, and the most.
        units_per_column: Units for each column, between these.
        depth: Hidden layers.
        fixed: Components of a column that stay where they are: the least, and the most.
        fixed_numbers: These of all columns together, between the two.
        n_moving: Components of a column that move with the regression.
        start: How the mixtures start.
    """

    width: tuple[int, int] = (128, 512)
    units_per_column: int = 8
    depth: int = 2
    fixed: tuple[int, int] = (6, 24)
    fixed_numbers: int = 192
    n_moving: int = 6
    start: StartRules = field(default_factory=StartRules)


@dataclass(frozen=True)
class AutoregressiveFamily(Family):
    """Blocks that are the Knothe-Rosenblatt map of a density with conditional mixtures.

    Arguments:
        sizes: See `AutoregressiveRules`.
        background: The components for values unlike any other.
    """

    sizes: AutoregressiveRules = field(default_factory=AutoregressiveRules)
    background: Background = field(default_factory=Background)
    block: ClassVar[type[Block]] = AutoregressiveBlock

    def __post_init__(self) -> None:
        for name, kind in (("sizes", AutoregressiveRules), ("background", Background)):
            if not isinstance(getattr(self, name), kind):
                got = brief(getattr(self, name))
                raise InputError(f"block 'autoregressive': {name}: expected {kind.__name__}, got {got}")

    def new(
        self, rows: Particles, gamma: float, start: Start = PLAIN, *, generator: torch.Generator
    ) -> AutoregressiveBlock:
        del start
        least, most = self.sizes.width
        width = min(max(self.sizes.units_per_column * rows.dim, least), most)
        shape = ConditionalsShape(
            rows.dim,
            rows.context_dim,
            n_fixed=min(max(self.sizes.fixed_numbers // rows.dim, self.sizes.fixed[0]), self.sizes.fixed[1]),
            n_moving=self.sizes.n_moving,
            n_wide=self.background.widths,
            width=width,
            depth=self.sizes.depth,
        )
        block = AutoregressiveBlock(gamma=gamma, shape=shape, generator=generator)
        block = block.to(rows.rows(slice(0, 0)).x)
        start_conditionals(block.conditionals, rows, self.background, self.sizes.start)
        return block

    # ── what other densities say better ──

    def add_mixture(
        self,
        block: Block,
        closing: Block | None,
        validation: Particles,
        rules: LeafRules,
        *,
        most_products: float,
    ) -> None:
        """Give columns of a block the conditionals of a mixture, in place, where validation rows like them.

        Arguments:
            block: One of this family.
            closing: The map of the mixture; nothing is done if it is none, or None.
            validation: Validation rows.
            rules: How shares are found.
            most_products: Most components × columns³, which each row that is pulled costs.
        """
        if not isinstance(closing, MixtureBlock) or closing.n_components < 2:
            return
        if closing.n_components * closing.means.shape[1] ** 3 <= most_products:
            _own(block).add_gaussians(closing, validation, rules)

    def grow_leaves(
        self,
        block: Block,
        rows: Particles,
        validation: Particles,
        rules: LeafRules,
        seed: int,
        columns: Sequence[int] | None = None,
    ) -> bool:
        """Give columns of a block kernels, in place; whether any has some. See `AutoregressiveBlock`."""
        own = _own(block)
        own.grow_leaves(rows, validation, rules, seed, columns)
        return own.conditionals.leaves is not None

    def drop_leaves(self, block: Block) -> None:
        """Take the kernels of all columns away, in place."""
        _own(block).conditionals.leaves = None


def _own(block: Block) -> AutoregressiveBlock:
    assert isinstance(block, AutoregressiveBlock)
    return block

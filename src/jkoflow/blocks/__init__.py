"""Blocks: the invertible maps that a flow composes, one kind per file, found by name.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (20)-(23).
"""

from __future__ import annotations

import math
from typing import Any

from jkoflow.blocks.affine import AffineBlock
from jkoflow.blocks.base import Block, Inverse, SourcedBlock, default_tolerance
from jkoflow.blocks.mixture import MixtureBlock
from jkoflow.blocks.ode.block import DETERMINANT_DIM, NeuralODEBlock
from jkoflow.blocks.ode.velocity import velocity_from_config
from jkoflow.errors import RunFolderError
from jkoflow.storage import RESTORE

__all__ = [
    "BLOCKS",
    "DETERMINANT_DIM",
    "AffineBlock",
    "Block",
    "Inverse",
    "MixtureBlock",
    "NeuralODEBlock",
    "SourcedBlock",
    "block_from_config",
    "default_tolerance",
]

BLOCKS: dict[str, type[Block]] = {
    "affine": AffineBlock,
    "mixture": MixtureBlock,
    "neural_ode": NeuralODEBlock,
}


def block_from_config(config: dict[str, Any]) -> Block:
    """Build the block that `Block.to_config` describes; its numbers come from a state dict afterwards."""
    settings = dict(config)
    kind = settings.pop("kind", None)
    gamma = settings.pop("gamma", None)
    settings["gamma"] = math.inf if gamma is None else float(gamma)
    if "velocity" in settings:
        settings["velocity"] = velocity_from_config(settings["velocity"])
    if kind not in BLOCKS:
        raise RunFolderError(f"block: expected one of {sorted(BLOCKS)}, got {kind!r}")
    try:
        return BLOCKS[kind](**settings)
    except TypeError as error:  # a setting is missing or unknown
        raise RunFolderError(f"block {kind}: {error}; {RESTORE}") from error

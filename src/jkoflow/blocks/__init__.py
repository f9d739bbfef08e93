"""Blocks: the invertible maps that a flow composes, one kind per file, found by name.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (20)-(23).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from jkoflow.blocks.affine import AffineBlock, AffineFamily, whitening
from jkoflow.blocks.base import Block, Inverse, InverseLipschitz, Source, default_tolerance
from jkoflow.blocks.family import Family, Start
from jkoflow.blocks.mixture import MixtureBlock, mean_of_mixtures, mixture_map
from jkoflow.blocks.ode.block import NeuralODEBlock
from jkoflow.blocks.ode.family import NeuralODEFamily
from jkoflow.blocks.zuko import ZukoFamily
from jkoflow.errors import InputError, RunFolderError
from jkoflow.storage import RESTORE

__all__ = [
    "BLOCKS",
    "FAMILIES",
    "AffineBlock",
    "Block",
    "Family",
    "Inverse",
    "InverseLipschitz",
    "MixtureBlock",
    "NeuralODEBlock",
    "Source",
    "Start",
    "block_from_config",
    "default_tolerance",
    "family_named",
    "mean_of_mixtures",
    "mixture_map",
    "whitening",
]

FAMILIES: Mapping[str, type[Family]] = MappingProxyType(
    {
        "affine": AffineFamily,
        "neural_ode": NeuralODEFamily,
        "zuko": ZukoFamily,
    }
)
"""Every family of blocks by the name that the option `block` gives it."""

BLOCKS: Mapping[str, type[Block]] = MappingProxyType(
    {"mixture": MixtureBlock, **{name: family.block for name, family in FAMILIES.items()}}
)
"""Every kind of block by the name that its stored settings have; a mixture is found in closed form alone."""


def family_named(option: str | Mapping[str, Any], **defaults: Any) -> Family:
    """The family that the option `block` names.

    Arguments:
        option: A key of `FAMILIES`, or a table with `kind` and that family's own arguments.
        defaults: Arguments for a family that has them and is not given them.

    Raises:
        InputError: An unknown family, or an argument that it does not have.
    """
    given: dict[str, Any] = {"kind": option} if isinstance(option, str) else dict(option)
    kind = given.pop("kind", None)
    if kind not in FAMILIES:
        raise InputError(f"block: expected one of {sorted(FAMILIES)}, or a table with kind, got {option!r}")
    known = inspect.signature(FAMILIES[kind]).parameters
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InputError(f"block {kind!r}: expected options among {sorted(known)}, got {unknown[0]!r}")
    return FAMILIES[kind](**{name: value for name, value in defaults.items() if name in known} | given)


def block_from_config(config: dict[str, Any]) -> Block:
    """Build the block that `Block.to_config` describes; its numbers come from a state dict afterwards.

    Raises:
        RunFolderError: An unknown kind, or settings that it does not have.
    """
    settings = dict(config)
    kind = settings.pop("kind", None)
    gamma = settings.pop("gamma", None)
    settings["gamma"] = math.inf if gamma is None else float(gamma)
    if kind not in BLOCKS:
        raise RunFolderError(f"block: expected one of {sorted(BLOCKS)}, got {kind!r}")
    try:
        return BLOCKS[kind].from_config(settings)
    except (TypeError, KeyError) as error:  # a setting is missing or unknown
        raise RunFolderError(f"block {kind}: {error}; {RESTORE}") from error

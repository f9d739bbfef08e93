"""Blocks: the invertible maps that a flow composes, one kind per file, found by name.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (20)-(23).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from jkoflow.blocks.affine import AffineBlock, AffineFamily, whitening
from jkoflow.blocks.autoregressive import AutoregressiveFamily
from jkoflow.blocks.base import Block, Inverse, InverseLipschitz, Source, default_tolerance
from jkoflow.blocks.family import Family, Start
from jkoflow.blocks.mixture import MixtureBlock, mean_of_mixtures, mixture_map
from jkoflow.blocks.ode.block import NeuralODEBlock
from jkoflow.blocks.ode.family import NeuralODEFamily
from jkoflow.blocks.zuko import ZukoFamily
from jkoflow.errors import InputError, RunFolderError
from jkoflow.storage import RESTORE
from jkoflow.storage.entries import brief, checked_real

__all__ = [
    "BLOCKS",
    "FAMILIES",
    "AffineBlock",
    "AutoregressiveFamily",
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
        "autoregressive": AutoregressiveFamily,
        "neural_ode": NeuralODEFamily,
        "zuko": ZukoFamily,
    }
)
"""Every family of blocks by the name that the option `block` gives it."""

BLOCKS: Mapping[str, type[Block]] = MappingProxyType(
    {"mixture": MixtureBlock, **{name: family.block for name, family in FAMILIES.items()}}
)
"""Every kind of block by the name that its stored settings have; a mixture is found in closed form alone."""


def family_named(option: Any, **defaults: Any) -> Family:
    """The family that the option `block` names.

    Arguments:
        option: A key of `FAMILIES`, or a table with `kind` and that family's own arguments.
        defaults: Arguments for a family that has them and is not given them.

    Raises:
        InputError: An unknown family, or an argument that it does not have.
    """
    given: dict[str, Any] = dict(option) if isinstance(option, Mapping) else {"kind": option}
    kind = given.pop("kind", None)
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise InputError(
            f"block: expected one of {sorted(FAMILIES)}, or a table with kind, got {brief(option)}"
        )
    known = inspect.signature(FAMILIES[kind]).parameters
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InputError(f"block {kind!r}: expected options among {sorted(known)}, got {unknown[0]!r}")
    return FAMILIES[kind](**{name: value for name, value in defaults.items() if name in known} | given)


def block_from_config(config: object, *, found: Mapping[str, tuple[int, ...]] | None = None) -> Block:
    """Build the block that `Block.to_config` describes; its numbers come from a state dict afterwards.

    Arguments:
        config: What `to_config` returned, as JSON gives it back.
        found: Shapes of the tensors that there are for it, by name; nothing is made by settings that others
            belong to. None where the settings are our own.

    Raises:
        RunFolderError: An unknown kind, settings that it does not have or that are out of range, or other
            tensors than belong to them.
    """
    settings = dict(config) if isinstance(config, Mapping) else {}
    kind = settings.pop("kind", None)
    if not isinstance(kind, str) or kind not in BLOCKS:
        raise RunFolderError(f"block: expected one of {sorted(BLOCKS)}, got {brief(kind)}")
    try:
        free = settings.get("gamma") is None
        settings["gamma"] = math.inf if free else checked_real(settings, "gamma", above=0.0)
        if found is not None:
            _require_shapes(BLOCKS[kind].stored_shapes(settings, found), found)
        return BLOCKS[kind].from_config(settings)
    except RunFolderError:
        raise
    except (TypeError, KeyError, ValueError) as error:  # a setting is missing, unknown or out of range
        raise RunFolderError(f"block {kind}: {error}; {RESTORE}") from error


def _require_shapes(
    expected: Iterable[tuple[str, tuple[int, ...]]], found: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse, as a ValueError, tensors that are not the expected ones; the first of them is named."""
    known = set()
    for name, shape in expected:
        if name not in found:
            raise ValueError(f"tensor {name}: expected one of shape {brief(shape)}, it is missing")
        if found[name] != shape:
            raise ValueError(f"tensor {name}: expected shape {brief(shape)}, got {brief(found[name])}")
        known.add(name)
    if unknown := sorted(set(found) - known):
        raise ValueError(f"tensor {brief(unknown[0])}: the settings have no such tensor")

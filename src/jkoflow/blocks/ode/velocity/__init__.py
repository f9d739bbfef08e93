"""Velocity fields v_theta(x, t), one network per file, found by name.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (20).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jkoflow.blocks.ode.velocity.base import VelocityField
from jkoflow.blocks.ode.velocity.mlp import MLPVelocity
from jkoflow.errors import RunFolderError
from jkoflow.storage import RESTORE
from jkoflow.storage.entries import brief

__all__ = ["VELOCITIES", "MLPVelocity", "VelocityField", "velocity_from_config", "velocity_kind"]

VELOCITIES: dict[str, type[VelocityField]] = {"mlp": MLPVelocity}


def velocity_from_config(config: Mapping[str, Any]) -> VelocityField:
    """Build the field that `VelocityField.to_config` describes, with untrained weights."""
    kind, settings = velocity_kind(config)
    try:
        return kind(**settings)
    except TypeError as error:  # a setting is missing or unknown
        raise RunFolderError(f"velocity {config['kind']}: {error}; {RESTORE}") from error


def velocity_kind(config: object) -> tuple[type[VelocityField], dict[str, Any]]:
    """The class that stored settings name, and the settings without the name.

    Raises:
        RunFolderError: They name none.
    """
    settings = dict(config) if isinstance(config, Mapping) else {}
    kind = settings.pop("kind", None)
    if not isinstance(kind, str) or kind not in VELOCITIES:
        raise RunFolderError(f"velocity: expected kind of {sorted(VELOCITIES)}, got {brief(kind)}")
    return VELOCITIES[kind], settings

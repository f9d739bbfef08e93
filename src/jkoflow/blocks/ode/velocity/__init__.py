"""Velocity fields v_theta(x, t), one network per file, found by name.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (20).
"""

from __future__ import annotations

from typing import Any

from jkoflow.blocks.ode.velocity.base import VelocityField
from jkoflow.blocks.ode.velocity.mlp import MLPVelocity
from jkoflow.errors import RunFolderError
from jkoflow.storage import RESTORE

__all__ = ["VELOCITIES", "MLPVelocity", "VelocityField", "velocity_from_config"]

VELOCITIES: dict[str, type[VelocityField]] = {"mlp": MLPVelocity}


def velocity_from_config(config: dict[str, Any]) -> VelocityField:
    """Build the field that `VelocityField.to_config` describes, with untrained weights."""
    settings = dict(config)
    kind = settings.pop("kind", None)
    if kind not in VELOCITIES:
        raise RunFolderError(f"velocity: expected one of {sorted(VELOCITIES)}, got {kind!r}")
    try:
        return VELOCITIES[kind](**settings)
    except TypeError as error:  # a setting is missing or unknown
        raise RunFolderError(f"velocity {kind}: {error}; {RESTORE}") from error

"""The deployable model: columns, flow and settings, as one value (`model`) and as one folder (`folder`).

log p(x) = log q_0(z) + log|dz/dx|,   z = (x - m)/s        (columns' bijection, then the flow)
"""

from __future__ import annotations

from jkoflow.model.folder import load_model, save_model
from jkoflow.model.model import Model, encode_table

__all__ = ["Model", "encode_table", "load_model", "save_model"]

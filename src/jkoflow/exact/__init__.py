"""Ground truth without networks: closed forms that the trained flow is tested against."""

from __future__ import annotations

from jkoflow.exact.gaussian import (
    AffineMap,
    GaussianState,
    Quadratic,
    jko_step,
    kl,
    trajectory,
    transport_map,
    w2,
)

__all__ = ["AffineMap", "GaussianState", "Quadratic", "jko_step", "kl", "trajectory", "transport_map", "w2"]

"""Ground truth without networks: closed forms and finite convex problems, for tests and experiments."""

from __future__ import annotations

from jkoflow.exact.forward_backward import (
    NormalRule,
    VariationalResult,
    forward_backward_step,
    gaussian_variational_inference,
    gaussian_variational_step,
)
from jkoflow.exact.gaussian import (
    AffineError,
    AffineMap,
    GaussianState,
    Quadratic,
    jko_step,
    kl,
    trajectory,
    transport_map,
    w2,
)
from jkoflow.exact.quantile import QuantileLaw, field_of_norm, normal_levels
from jkoflow.exact.quantile_step import QuantileStep, evaluate, quantile_step, quantile_trajectory

__all__ = [
    "AffineError",
    "AffineMap",
    "GaussianState",
    "NormalRule",
    "Quadratic",
    "QuantileLaw",
    "QuantileStep",
    "VariationalResult",
    "evaluate",
    "field_of_norm",
    "forward_backward_step",
    "gaussian_variational_inference",
    "gaussian_variational_step",
    "jko_step",
    "kl",
    "normal_levels",
    "quantile_step",
    "quantile_trajectory",
    "trajectory",
    "transport_map",
    "w2",
]

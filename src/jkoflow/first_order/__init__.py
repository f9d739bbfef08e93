"""The first-order residual xi of one step, by four estimators, and how far its map is from the optimal one.

    kernel.py        the published one: kernel score and discrete transport; has a floor, for d of 1 or 2
    exact.py         where p_0 is known: its score, pushed forward
    variational.py   from samples alone, from below, in any d
    effective_gamma.py  the step size at which xi is least
    own.py           the model's own score: a plug-in, which takes for granted that the model is right

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, Assumption 1, eq. (27)-(30).
"""

from __future__ import annotations

from jkoflow.first_order.effective_gamma import effective_gamma, least_squares_gamma, ou_gammas
from jkoflow.first_order.exact import exact_residual, push_with_derivatives, pushed_score
from jkoflow.first_order.kernel import kernel_floor, kernel_residual, kernel_score
from jkoflow.first_order.own import own_residual, own_scores
from jkoflow.first_order.pairs import Norm, StepPairs, norm_of, potential_gradient
from jkoflow.first_order.transport import Derivative, assignment, derivative_at, transport_gap
from jkoflow.first_order.variational import FieldSearch, variational_norm

__all__ = [
    "Derivative",
    "FieldSearch",
    "Norm",
    "StepPairs",
    "assignment",
    "derivative_at",
    "effective_gamma",
    "exact_residual",
    "kernel_floor",
    "kernel_residual",
    "kernel_score",
    "least_squares_gamma",
    "norm_of",
    "ou_gammas",
    "own_residual",
    "own_scores",
    "potential_gradient",
    "push_with_derivatives",
    "pushed_score",
    "transport_gap",
    "variational_norm",
]

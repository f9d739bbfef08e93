"""Every scheme follows the gradient flow of its functional: its error over one step falls as gamma²."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from jkoflow.blocks import FAMILIES
from jkoflow.steps.scheme import SCHEMES, Scheme
from jkoflow.steps.solvers import ClosedFormSolver
from oracles.jobs import run_fold, start_state
from oracles.solvers import gaussian_particles


def error_of_one_step(scheme: Scheme, gamma: float) -> float:
    """Distance of mean and variance after a step from those of the gradient flow after time gamma."""
    rows = gaussian_particles(500, 1)
    solver = ClosedFormSolver(FAMILIES["affine"]())
    after = run_fold(start_state(rows, rows), (gamma,), solver, scheme=scheme).last.train.x
    mean = float(rows.x.mean()) * math.exp(-gamma)
    variance = 1 + (float(rows.x.var(correction=0)) - 1) * math.exp(-2 * gamma)
    return abs(float(after.mean()) - mean) + abs(float(after.var(correction=0)) - variance)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_error_of_one_step_is_of_second_order(scheme: Scheme) -> None:
    errors = [error_of_one_step(scheme, gamma) for gamma in (0.04, 0.02, 0.01)]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert orders[-1] > 1.85, orders

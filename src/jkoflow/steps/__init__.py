"""One step: what it is given, how its block is found, what validation rows say of it, and the state after it.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (20) and (25).
"""

from __future__ import annotations

from jkoflow.steps.state import Closing, Keep, State, improves, initial_state, is_significant, take, taken_by
from jkoflow.steps.step import Step, StepSolver

__all__ = [
    "Closing",
    "Keep",
    "State",
    "Step",
    "StepSolver",
    "improves",
    "initial_state",
    "is_significant",
    "take",
    "taken_by",
]

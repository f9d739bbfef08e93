"""The neural-ODE block: a velocity field, its solver, its traces, its number of solver steps, its family.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (20)-(21).
"""

from __future__ import annotations

__all__: list[str] = []

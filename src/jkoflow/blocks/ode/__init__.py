"""The neural-ODE block: a velocity field, its solver, its traces.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (20)-(21).
"""

from __future__ import annotations

from jkoflow.blocks.ode.block import DETERMINANT_DIM, NeuralODEBlock

__all__ = ["DETERMINANT_DIM", "NeuralODEBlock"]

"""Particles: samples of the laws p_n, their moments, and the smoothing that makes p_0 of the data.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (22) and section 5.1.2.
"""

from __future__ import annotations

from jkoflow.particles.moments import Moments
from jkoflow.particles.particles import DeferredParticles, Particles, empty_rows, joined
from jkoflow.particles.shared import SharedParticles, own_rows
from jkoflow.particles.smoothing import Smoothing, resolve_smoothing

__all__ = [
    "DeferredParticles",
    "Moments",
    "Particles",
    "SharedParticles",
    "Smoothing",
    "empty_rows",
    "joined",
    "own_rows",
    "resolve_smoothing",
]

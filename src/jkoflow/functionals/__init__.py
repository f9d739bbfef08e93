"""Functionals that a proximal step descends, one kind per file, found by name.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (16).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from jkoflow.functionals.base import Functional, ProximalObjective, Pushed, Terms
from jkoflow.functionals.kl import KL
from jkoflow.laws import Law

__all__ = ["FUNCTIONALS", "KL", "Functional", "ProximalObjective", "Pushed", "Terms"]

FUNCTIONALS: Mapping[str, Callable[[Law], Functional]] = MappingProxyType({"kl": KL})
"""Every functional by name, made from the law that the flow ends in."""

"""The processes of a fit: one alone, or several that `torchrun` starts.

    one process:  broadcast(a) = a,  gather(t) = t,  merge(t) = t,  largest(a) = a

Source: ours, docs/scale.md.
"""

from __future__ import annotations

from jkoflow.world.base import ALONE, Alone, World

__all__ = ["ALONE", "Alone", "World"]

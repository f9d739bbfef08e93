"""Numbers that a block was given by a file: each of them finite, or the block computes nothing.

Source: IEEE 754: NaN and infinity spread to whatever is computed with them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["require_finite"]


def require_finite(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors with a number that is NaN or infinite.

    Raises:
        ValueError: There is one; the message names its tensor.
    """
    for name, numbers in tensors.items():
        if not bool(torch.isfinite(numbers).all()):
            raise ValueError(f"tensor {name}: expected finite numbers, got NaN or infinite ones")

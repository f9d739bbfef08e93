"""Functions of rows, applied to few enough rows at a time for the tables that they need."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["by_chunks"]


def by_chunks(
    function: Callable[[Tensor, Tensor | None], tuple[Tensor, ...]],
    x: Tensor,
    context: Tensor | None,
    size: int,
) -> tuple[Tensor, ...]:
    """`function` of `size` rows at a time, 1 at least; of no rows it is asked once.

    Arguments:
        function: Of rows and their context; what it returns has a first dimension for the rows.
        x: Shape `(n, d)`.
        context: Shape `(n, c)`, or None.
        size: Rows at a time.
    """
    size = max(1, size)
    parts = [
        function(x[i : i + size], None if context is None else context[i : i + size])
        for i in range(0, max(len(x), 1), size)
    ]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))

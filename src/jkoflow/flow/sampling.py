r"""The reverse process: base noise pulled through the blocks, T_1^-1 o ... o T_N^-1.

    q_N = q,   q_{n-1} = (T_n^{-1})_# q_n                                   (eq. 23)

Where q_{N-1}, which the last block takes to q, has a closed form, its rows are drawn, not pulled.
Rows are always pulled 1,024 at a time, the last block padded to full size, so that row i is the same
numbers whatever the number of rows, to the last bit. Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582,
eq. (23), (31).
"""

from __future__ import annotations

import torch
from torch import Tensor

from jkoflow.blocks import Inverse
from jkoflow.errors import InputError
from jkoflow.flow import Flow
from jkoflow.runtime import BASE_NOISE_ROWS, base_noise

__all__ = ["ROUND_TRIP_TOLERANCE", "round_trip_tolerance", "sample"]

ROUND_TRIP_TOLERANCE = {"float32": 1e-4, "float64": 1e-8}
"""Largest round-trip error of a sample that is not told of, by the model's dtype, standardised units."""


def round_trip_tolerance(dtype: torch.dtype) -> float:
    """`ROUND_TRIP_TOLERANCE` of a dtype; of a coarser one, that of float32."""
    name = str(dtype).removeprefix("torch.")
    return ROUND_TRIP_TOLERANCE.get(name, ROUND_TRIP_TOLERANCE["float32"])


@torch.no_grad()
def sample(
    flow: Flow,
    n_rows: int,
    *,
    seed: int,
    context: Tensor | None = None,
    tolerance: float | None = None,
    like: Tensor,
) -> Inverse:
    """Draw from q_0 in standardised units.

    Arguments:
        flow: The trained flow, with a standard normal base.
        n_rows: How many rows.
        seed: Seed of the base noise.
        context: Shape `(n_rows, c)`, or None.
        tolerance: Round-trip error asked of each block's inverse, standardised units.
        like: A tensor with the device and dtype to compute in.

    Returns:
        The rows `(n_rows, d)` and the round-trip error of each under the map that it was pulled through.

    Raises:
        InputError: No rows are asked for, or the context has another number of them.
    """
    if n_rows < 1:
        raise InputError(f"n_samples: expected at least 1, got {n_rows}")
    if context is not None and len(context) != n_rows:
        raise InputError(f"context: expected {n_rows} rows, one for each sample, got {len(context)}")
    pulled, last = flow.split_source() or (flow, None)
    parts: list[Inverse] = []
    for start in range(0, n_rows, BASE_NOISE_ROWS):
        noise = base_noise(seed, BASE_NOISE_ROWS, flow.dim, first_block=start // BASE_NOISE_ROWS)
        part = None if context is None else _padded(context[start : start + BASE_NOISE_ROWS])
        rows = noise if last is None else last.source_draw(noise.to(like.device), part)
        parts.append(pulled.invert(rows.to(like), part, tolerance=tolerance))
    return Inverse(
        torch.cat([part.x for part in parts])[:n_rows], torch.cat([part.error for part in parts])[:n_rows]
    )


def _padded(context: Tensor) -> Tensor:
    """Full 1,024 rows: the last row repeated as often as needed."""
    missing = BASE_NOISE_ROWS - len(context)
    return torch.cat([context, context[-1:].expand(missing, -1)]) if missing else context

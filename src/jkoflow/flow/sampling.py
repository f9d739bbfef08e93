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
from jkoflow.counts import checked_count
from jkoflow.errors import InputError
from jkoflow.flow import Flow
from jkoflow.runtime import base_noise, seed_stream
from jkoflow.storage.chunks import BASE_NOISE_ROWS, PULLED_TOGETHER_NUMBERS
from jkoflow.storage.memory import require_memory
from jkoflow.world import ALONE, World

__all__ = ["checked_sample_size", "round_trip_tolerance", "rows_together", "sample"]


def round_trip_tolerance(dtype: torch.dtype, *, single: float = 1e-4, double: float = 1e-8) -> float:
    """Largest round-trip error of a sample that is not told of, standardised units.

    Arguments:
        dtype: The model's.
        single: The tolerance in float32 and in what is coarser.
        double: The tolerance in float64.
    """
    return double if dtype is torch.float64 else single


def checked_sample_size(n_rows: object, dim: int, dtype: torch.dtype) -> int:
    """The number of rows to draw as an `int`.

    Arguments:
        n_rows: What was asked for.
        dim: d.
        dtype: The model's; rows are drawn in it and handed out in float64.

    Raises:
        InputError: It is no whole number above 0, or so many rows do not fit in memory.
    """
    count = checked_count(n_rows, "n_samples")
    # two copies of the rows as they are drawn, three and a half in float64 where they are decoded (measured)
    n_bytes = count * (dim * (2 * dtype.itemsize + 28) + 24)
    what = f"n_samples: expected rows that fit in memory, got {count:,} of {dim:,} columns"
    require_memory(n_bytes, what, remedy="draw fewer at a time, each time with another seed")
    return count


@torch.no_grad()
def sample(
    flow: Flow,
    n_rows: int,
    *,
    seed: int,
    context: Tensor | None = None,
    tolerance: float | None = None,
    like: Tensor,
    world: World = ALONE,
) -> Inverse:
    """Draw from q_0 in standardised units.

    Arguments:
        flow: The trained flow.
        n_rows: How many rows.
        seed: Seed of the base noise.
        context: Shape `(n_rows, c)`, or None.
        tolerance: Round-trip error asked of each block's inverse, standardised units.
        like: A tensor with the device and dtype to compute in.
        world: Processes that divide the blocks of noise among them; each gets all rows.

    Returns:
        The rows `(n_rows, d)` and the round-trip error of each under the map that it was pulled through.

    Raises:
        InputError: No number of rows, more than fit in memory, or a context of another number of them.
    """
    n_rows = checked_sample_size(n_rows, flow.dim, like.dtype)
    seed = checked_count(seed, "seed", least=None)
    if context is not None and len(context) != n_rows:
        raise InputError(f"context: expected {n_rows} rows, one for each sample, got {len(context)}")
    numbers = world.pieces(-(-n_rows // BASE_NOISE_ROWS))
    if flow.law_at == "start":
        parts = _pushed(flow, numbers, seed=seed, context=context, like=like)
    else:
        parts = _pulled(flow, numbers, n_rows, seed=seed, context=context, tolerance=tolerance, like=like)
    x = torch.cat([like.new_empty(0, flow.dim), *(part.x for part in parts)])
    error = torch.cat([like.new_empty(0), *(part.error for part in parts)])
    return Inverse(world.gather(x)[:n_rows], world.gather(error)[:n_rows])


def rows_together(dim: int) -> int:
    """Rows of base noise that are pulled together: a power of two, 64 to 1,024, fewer where columns are many.

    What a product of matrices rounds to depends on their shapes, so that always as many are pulled together;
    with fewer than 1,024 of wide rows a few need not wait for all those.
    """
    most = max(64, min(BASE_NOISE_ROWS, PULLED_TOGETHER_NUMBERS // dim))
    return 1 << (most.bit_length() - 1)


def _pulled(
    flow: Flow,
    blocks: range,
    n_rows: int,
    *,
    seed: int,
    context: Tensor | None,
    tolerance: float | None,
    like: Tensor,
) -> list[Inverse]:
    """Rows of blocks of noise pulled or, where the last block allows it, drawn and pulled."""
    pulled, source = flow.split_source() or (flow, None)
    parts, size = list[Inverse](), rows_together(flow.dim)
    for block in blocks:
        wanted = min(BASE_NOISE_ROWS, n_rows - block * BASE_NOISE_ROWS)
        given = None if context is None else _padded(_given(context, block))
        rows = _noise(flow, seed, block)
        for start in range(0, wanted, size):
            some = rows[start : start + size].to(like.device)
            part = None if given is None else given[start : start + size]
            if source is not None:
                some = source.draw(some, part)
            parts.append(pulled.invert(some.to(like), part, tolerance=tolerance))
    return parts


def _noise(flow: Flow, seed: int, block: int) -> Tensor:
    """1,024 draws of the known law from (seed, block number), float64."""
    if flow.law.is_standard:
        return base_noise(seed, BASE_NOISE_ROWS, flow.dim, first_block=block)
    return flow.law.sample(BASE_NOISE_ROWS, seed_stream(seed, "base_noise", block))


def _pushed(flow: Flow, blocks: range, *, seed: int, context: Tensor | None, like: Tensor) -> list[Inverse]:
    """Draws of the law at the start, pushed; there is nothing to invert, and no error."""
    parts = []
    for block in blocks:
        part = None if context is None else _padded(_given(context, block))
        x = flow.push(_noise(flow, seed, block).to(like), part)
        parts.append(Inverse(x, torch.zeros(len(x), dtype=x.dtype, device=x.device)))
    return parts


def _given(context: Tensor, block: int) -> Tensor:
    """The contexts of the rows of a block of noise."""
    return context[block * BASE_NOISE_ROWS : (block + 1) * BASE_NOISE_ROWS]


def _padded(context: Tensor) -> Tensor:
    """Full 1,024 rows: the last row repeated as often as needed."""
    missing = BASE_NOISE_ROWS - len(context)
    return torch.cat([context, context[-1:].expand(missing, -1)]) if missing else context

"""Where and how numbers are computed: device, dtype, and every source of randomness by name.

A seed stream is a `torch.Generator` on the CPU whose state is SHA-256(seed, name, indices). Two streams of
different names are independent, and a stream never depends on what was drawn from another, so that a block
retrained after an interruption sees the numbers it would have seen without one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from jkoflow.errors import InputError
from jkoflow.storage.chunks import BASE_NOISE_ROWS
from jkoflow.storage.entries import brief

__all__ = [
    "Runtime",
    "base_noise",
    "resolve_device",
    "resolve_dtype",
    "seed_stream",
]

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def seed_stream(seed: int, name: str, *indices: int) -> torch.Generator:
    """Return the generator that belongs to `name` and `indices` under `seed`."""
    key = "/".join(["jkoflow", str(int(seed)), name, *(str(int(index)) for index in indices)])
    digest = hashlib.sha256(key.encode()).digest()
    generator = torch.Generator(device="cpu")
    generator.manual_seed(int.from_bytes(digest[:8], "little") & (2**63 - 1))
    return generator


def base_noise(seed: int, n_rows: int, dim: int, *, first_block: int = 0) -> Tensor:
    """Return standard normal rows `(n_rows, dim)`, float64, in blocks of 1,024 from (seed, block).

    Row i depends on the seed, i and dim alone, so a longer draw begins with the shorter one.
    """
    n_blocks = -(-n_rows // BASE_NOISE_ROWS)
    blocks = [
        torch.randn(
            BASE_NOISE_ROWS,
            dim,
            generator=seed_stream(seed, "base_noise", first_block + block),
            dtype=torch.float64,
        )
        for block in range(n_blocks)
    ]
    return torch.cat(blocks)[:n_rows] if blocks else torch.empty(0, dim, dtype=torch.float64)


def resolve_device(device: str) -> torch.device:
    """Turn `"auto"`, `"cpu"`, `"cuda"` or `"cuda:1"` into a device that exists here.

    Raises:
        InputError: It names another kind of device, whose arithmetic has no float64, or one that is not here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = device.partition(":")
    if device not in ("cpu", "cuda") and not (kind == "cuda" and number.isdecimal() and len(number) < 4):
        raise InputError(f"device: expected 'auto', 'cpu', 'cuda' or 'cuda:NUMBER', got {brief(device)}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device: {device!r} asked for, but this torch sees no CUDA; use device='auto'")
    if number and int(number) >= torch.cuda.device_count():
        raise InputError(
            f"device: {device!r} asked for, and there are {torch.cuda.device_count()}; use device='cuda'"
        )
    return torch.device(device)


def resolve_dtype(dtype: str) -> torch.dtype:
    """Turn `"float32"` or `"float64"` into a torch dtype."""
    if dtype not in _DTYPES:
        raise InputError(f"dtype: expected one of {sorted(_DTYPES)}, got {dtype!r}")
    return _DTYPES[dtype]


@dataclass(frozen=True)
class Runtime:
    """Device, dtype and seed of one fit, passed to whatever computes."""

    seed: int
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32

    def stream(self, name: str, *indices: int) -> torch.Generator:
        """The named source of randomness; see `seed_stream`."""
        return seed_stream(self.seed, name, *indices)

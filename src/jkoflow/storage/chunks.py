"""How much is held in memory at once: rows, or numbers, of the pieces that long loops over rows work on.

Each is large enough for full speed and small enough that memory stays flat; no result depends on one, except
where a sentence says so. Source: measured, docs/performance.md.
"""

from __future__ import annotations

__all__ = [
    "BASE_NOISE_ROWS",
    "CARRIED_ROWS",
    "EM_CHUNK_NUMBERS",
    "EM_KEPT_NUMBERS",
    "MIXTURE_PULLED_NUMBERS",
    "MIXTURE_PUSHED_NUMBERS",
    "MIXTURE_SCORED_NUMBERS",
    "PULLED_TOGETHER_NUMBERS",
    "PULL_ROWS",
    "PUSH_ROWS",
    "TANGENT_ROWS",
    "WHOLE_NUMBERS",
]

BASE_NOISE_ROWS = 1024
"""Rows of one block of base noise are this many; samples depend on it, so it is part of the file contract."""

PULLED_TOGETHER_NUMBERS = 2**15
"""Rows × columns of base noise that are pulled together, 64 rows at least; samples depend on it, too."""

PUSH_ROWS = 16_384
"""Rows that a block pushes at once."""

PULL_ROWS = 1024
"""Rows that a block pulls at once: Newton's method may need all their Jacobians."""

TANGENT_ROWS = 6144
"""Rows × (1 + columns) that tangents are carried for at once: a layer then stays near the cache."""

WHOLE_NUMBERS = 2**23
"""Numbers of rows, 64 MB in float64, up to which moments are taken of all rows at once."""

EM_CHUNK_NUMBERS = 2**18
"""Statistics, and responsibilities, of a chunk of rows in EM: 2 MB of each stay in a core's cache."""

EM_KEPT_NUMBERS = 2**23
"""Statistics of all rows, 64 MB, up to which EM keeps them from iteration to iteration."""

CARRIED_ROWS = 40_000
"""Rows whose responsibilities EM gives back: enough for the next fit to start from."""

MIXTURE_PUSHED_NUMBERS = 2**16
"""Rows × components × columns that a mixture's map pushes at once: half a megabyte stays in the cache."""

MIXTURE_PULLED_NUMBERS = 2**19
"""The same where it pulls: an inverse goes from column to column, with tables of rows × components alone."""

MIXTURE_SCORED_NUMBERS = 2**21
"""Rows × components × columns that the density of a mixture is computed for at once: 16 MB in float64."""

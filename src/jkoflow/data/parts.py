"""A part of the rows of a file, for one of several processes that read the file together.

    .parquet   the batches of 65,536 rows that the part reaches into, of the row groups that it reaches into
    .npy       the bytes of the part
    others     the whole file, of which the part is kept

Source: the Parquet format's row groups; numpy.lib.format, version 1.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from jkoflow.data.declared import check_npy, check_parquet
from jkoflow.data.files import RawTable, check_kind, read_file, reading
from jkoflow.storage.scratch import CHUNK_ROWS

__all__ = ["read_part"]


def read_part(path: str | os.PathLike[str], part_of: Callable[[int], slice]) -> tuple[RawTable, slice, int]:
    """Read some rows of a table, that part, and how many rows the file has.

    Arguments:
        path: The file.
        part_of: The part of so many rows, at least one row.

    Raises:
        InputError: As `read_file`.
    """
    path = Path(path)
    check_kind(path)
    with reading(path):
        if path.suffix.lower() == ".parquet":
            return _of_parquet(path, part_of)
        if path.suffix.lower() == ".npy":
            return _of_npy(path, part_of)
    raw = read_file(path)
    n_rows = len(raw.content) if raw.content.ndim else 1
    part = part_of(n_rows)
    content = raw.content[part] if raw.content.ndim else raw.content
    return replace(raw, content=content), part, n_rows


def _of_parquet(path: Path, part_of: Callable[[int], slice]) -> tuple[RawTable, slice, int]:
    # half a second to import, which other files have no need of
    import pyarrow
    from pyarrow.parquet import ParquetFile

    check_parquet(path)
    with ParquetFile(path) as file:
        n_rows = file.metadata.num_rows
        part = part_of(n_rows)
        ends = np.cumsum([file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)])
        reached = np.flatnonzero((ends > part.start) & (np.concatenate([[0], ends[:-1]]) < part.stop))
        start = int(ends[reached[0] - 1]) if len(reached) and reached[0] else 0
        batches = []
        for batch in file.iter_batches(batch_size=CHUNK_ROWS, row_groups=[int(number) for number in reached]):
            end = start + batch.num_rows
            if end > part.start and start < part.stop:
                first = max(part.start - start, 0)
                batches.append(batch.slice(first, min(part.stop, end) - start - first))
            start = end
        rows = pyarrow.Table.from_batches(batches, schema=file.schema_arrow)
    del batches  # so that a column's memory is free again as soon as it has been converted
    content = rows.to_pandas(split_blocks=True, self_destruct=True)
    del rows
    pyarrow.default_memory_pool().release_unused()
    return RawTable(content, names_columns=True), part, n_rows


def _of_npy(path: Path, part_of: Callable[[int], slice]) -> tuple[RawTable, slice, int]:
    with open(path, "rb") as file:
        if file.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
            return read_file(path), slice(0, 0), 0  # which is refused with a reason
        file.seek(0)
        check_npy(file, os.fstat(file.fileno()).st_size)
    content = np.load(path, mmap_mode="r", allow_pickle=False)
    n_rows = len(content) if content.ndim else 1
    part = part_of(n_rows)
    return RawTable(content[part] if content.ndim else content, names_columns=False), part, n_rows

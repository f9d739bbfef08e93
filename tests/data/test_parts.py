"""Processes that read a file together have among them what one process reads, and refuse what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from jkoflow.data import Table, read_shared_table, read_table, write_table
from jkoflow.data.parts import read_part
from jkoflow.errors import InputError
from jkoflow.world import ALONE, World
from oracles.worlds import run_together

FRAME = pd.DataFrame(
    {"count": np.arange(50), "real": np.random.default_rng(1).normal(size=50), "flag": np.arange(50) % 2 == 0}
)


def write(folder: Path, suffix: str, frame: pd.DataFrame = FRAME) -> Path:
    path = folder / f"table{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path, row_group_size=7)
    else:
        write_table(path, frame.to_numpy(dtype=np.float64), list(frame.columns))
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".npy", ".npz", ".csv", ".tsv"])
@pytest.mark.parametrize("unit", [1, 16])
def test_parts_are_the_table(tmp_path: Path, suffix: str, unit: int) -> None:
    path = write(tmp_path, suffix)
    whole = read_table(path)

    def read(world: World) -> tuple[Table, int, np.ndarray]:
        table = read_shared_table(path, world, unit=unit)
        return table, len(table.own), table.values[:]

    for size in (3, 60):  # of sixty processes some have no row
        found = run_together(size, read)
        assert [n_rows for _, n_rows, _ in found] == [
            len(range(50)[part]) for part in run_together(size, lambda world: world.part(50, unit=unit))
        ]
        for table, _, values in found:
            assert np.array_equal(values, whole.values)
            for name in ("columns", "integer", "sha256", "source", "is_frame", "notes"):
                assert getattr(table, name) == getattr(whole, name)


def test_one_process_reads_an_ordinary_table(tmp_path: Path) -> None:
    path = write(tmp_path, ".parquet")
    assert isinstance(read_shared_table(path, ALONE).values, np.ndarray)


def test_of_a_parquet_file_only_the_row_groups_of_the_part_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = list[list[int]]()
    iterate = pyarrow.parquet.ParquetFile.iter_batches

    def noted(file: object, **options: object) -> object:
        groups.append(options["row_groups"])
        return iterate(file, **options)

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", noted)
    raw, part, n_rows = read_part(write(tmp_path, ".parquet"), lambda n_rows: slice(15, 29))
    assert (groups, part, n_rows) == ([[2, 3, 4]], slice(15, 29), 50)
    pd.testing.assert_frame_equal(raw.content.reset_index(drop=True), FRAME[15:29].reset_index(drop=True))


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [("real", np.nan, "missing or infinite"), ("real", "a", "text"), ("count", None, "missing")],
)
def test_a_fault_in_one_part_is_told_by_all(tmp_path: Path, column: str, value: object, words: str) -> None:
    frame = FRAME.astype({column: object if isinstance(value, str) else float})
    frame.loc[40, column] = value
    if isinstance(value, str):
        frame[column] = frame[column].astype(str)
    path = write(tmp_path, ".parquet", frame)

    def refused(world: World) -> str:
        with pytest.raises(InputError, match=words) as raised:
            read_shared_table(path, world)
        return str(raised.value)

    one, other = run_together(2, refused)
    assert one == other


def test_a_file_that_cannot_be_read_is_refused_by_all(tmp_path: Path) -> None:
    path = tmp_path / "table.npy"
    for data in (b"", b"no array", b"PK\x03\x04 an archive", np.lib.format.MAGIC_PREFIX + b"cut short"):
        path.write_bytes(data)

        def refused(world: World) -> bool:
            with pytest.raises(InputError, match=r"table\.npy"):
                read_shared_table(path, world)
            return True

        assert run_together(2, refused) == [True, True]

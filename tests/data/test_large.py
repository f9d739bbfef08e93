"""Large tables: looked into where they lie or kept in a temporary file, and the same numbers either way."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jkoflow.data import Schema, Table, read_table
from jkoflow.errors import InputError
from jkoflow.storage import scratch
from oracles.scratch_files import lies_in_a_file, map_everything, mapped_files

ROWS = np.random.default_rng(0).normal(size=(103, 3)) * [1.0, 20.0, 0.01] + [0.0, 5.0, 0.3]
GRID = np.round(ROWS, 1)[:, :2]


def npy(path: Path, rows: np.ndarray) -> Path:
    np.save(path / "table.npy", rows)
    return path / "table.npy"


def npz(path: Path, rows: np.ndarray, save: Callable[..., None] = np.savez) -> Path:
    save(path / "table.npz", x=rows, weights=np.zeros(2))
    return path / "table.npz"


SOURCES: dict[str, Callable[[Path, np.ndarray], object]] = {
    "npy": npy,
    "npz": npz,
    "compressed npz": lambda path, rows: npz(path, rows, np.savez_compressed),
    "mapped": lambda path, rows: np.load(npy(path, rows), mmap_mode="r"),
    "array": lambda path, rows: rows,
    "frame": lambda path, rows: pd.DataFrame(rows),
}


@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4", "<i4", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("name", SOURCES)
def test_rows_are_those_of_the_same_table_in_memory(
    name: str, order: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.asarray(ROWS, order=order).astype(dtype)
    plain = read_table(rows)
    map_everything(monkeypatch, tmp_path)
    table = read_table(SOURCES[name](tmp_path, rows))
    assert lies_in_a_file(table.values)
    assert table.values.dtype == np.float64
    assert table.values.tobytes() == plain.values.tobytes()
    assert not table.values.flags.writeable
    assert table.integer == plain.integer


def test_float64_on_the_disk_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = npy(tmp_path, ROWS)
    folder = map_everything(monkeypatch, tmp_path)
    for source in (path, np.load(path, mmap_mode="r")):
        table = read_table(source)
        assert mapped_files(folder) == 0
        assert mapped_files(path) >= 1
        del table


def test_a_small_file_is_read_and_may_then_change(tmp_path: Path) -> None:
    path = npy(tmp_path, ROWS)
    for source in (path, np.load(path, mmap_mode="r")):
        table = read_table(source)
        assert not lies_in_a_file(table.values)


def test_an_array_that_its_owner_may_write_to_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    map_everything(monkeypatch, tmp_path)
    rows = np.load(npy(tmp_path, ROWS), mmap_mode="r+")
    table = read_table(rows)
    rows[0] = 0
    assert table.values.tobytes() == ROWS.tobytes()


def cut_short(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-100])
    return path


def member_cut_short(path: Path) -> Path:
    """An archive whose one array ends before its header says."""
    np.save(path / "short.npy", ROWS)
    with zipfile.ZipFile(path / "short.npz", "w") as archive:
        archive.writestr("x.npy", (path / "short.npy").read_bytes()[:-100])
    return path / "short.npz"


@pytest.mark.parametrize(
    "make",
    [
        lambda path: cut_short(npy(path, ROWS)),
        lambda path: cut_short(npz(path, ROWS)),
        member_cut_short,
        lambda path: npy(path, np.array([[object()]])),
        lambda path: npz(path, np.array([[object()]])),
    ],
    ids=["npy", "npz", "member", "objects in npy", "objects in npz"],
)
def test_damaged_files_are_refused_and_leave_nothing(
    make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path)
    folder = map_everything(monkeypatch, tmp_path)
    with pytest.raises(InputError, match=r"not a readable \.np"):
        read_table(path)
    assert mapped_files(folder) == 0


def test_numbers_that_are_not_finite_are_counted_over_all_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ROWS.copy()
    rows[[0, 40, 102], 0] = np.nan
    rows[[40, 70], 2] = [np.inf, -np.inf]
    monkeypatch.setattr(scratch, "CHUNK_ROWS", 16)
    with pytest.raises(InputError, match=r"in 4 of 103 rows, 2 columns: x0 \(3 NaN\), x2 \(2 infinite\)"):
        read_table(rows)


def parts_of(table: Table) -> list[Table]:
    places = np.random.default_rng(1).permutation(len(table))[:50]
    mask = np.isin(np.arange(len(table)), places)
    return [table.take(places), table.take(mask), table.take(slice(3, 60)), table.select(["x2", "x0"])]


def test_parts_of_a_table_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = [part.values.tobytes() for part in parts_of(read_table(ROWS))]
    map_everything(monkeypatch, tmp_path)
    parts = parts_of(read_table(ROWS))
    assert [part.values.tobytes() for part in parts] == plain
    assert all(lies_in_a_file(part.values) for part in parts)


@pytest.mark.parametrize("rows", [ROWS, GRID, np.vstack([ROWS, ROWS[:40]])], ids=["plain", "grid", "copies"])
def test_what_is_learned_of_the_columns_is_the_same(
    rows: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = np.random.default_rng(1).permutation(len(rows))[:90]
    plain = Schema.fit(read_table(rows), rows=seen)
    map_everything(monkeypatch, tmp_path)
    assert Schema.fit(read_table(npy(tmp_path, rows)), rows=seen) == plain
    assert bool(plain.dequantised) == (rows is GRID)

"""Binary tables that declare more than they hold: refused before anything is allocated."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hostile.workplace import limits
from jkoflow.data import read_table, write_table
from jkoflow.data.declared import check_parquet
from jkoflow.errors import InputError


def npy(shape: object, descr: object = "<f8", body: bytes = b"\0" * 480) -> bytes:
    """An array in a file whose header says this."""
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def zipped(member: bytes, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("x.npy", member)
    return buffer.getvalue()


def refused(path: Path, word: str) -> None:
    with limits(more_bytes=100 * 2**20), pytest.raises(InputError, match=word) as refusal:
        read_table(path)
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("shape", [(10**12, 2), (2, 10**12), (2**62, 4), (10**9, 60), (29, 2)])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_array_of_other_bytes_than_declared_is_refused(shape: object, suffix: str, tmp_path: Path) -> None:
    data = npy(shape)
    (tmp_path / f"a{suffix}").write_bytes(data if suffix == ".npy" else zipped(data))
    refused(tmp_path / f"a{suffix}", "bytes, and 480 follow")


@pytest.mark.parametrize("shape", [(0, 10**12), (0, 2), (10**12, 0)])
def test_array_without_numbers_is_refused(shape: object, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npy(shape, body=b""))
    refused(tmp_path / "a.npy", "got none")


def test_array_of_columns_beyond_count_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npy((1, 200_000), "|i1", b"\0" * 200_000))
    refused(tmp_path / "a.npy", "expected at most 100,000 columns")


@pytest.mark.parametrize("descr", ["|O", "|V0", "|S0", "<U0"])
def test_array_of_no_plain_numbers_is_refused(descr: str, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npy((10**12, 2), descr))
    refused(tmp_path / "a.npy", "Python objects|it declares values of")


def test_member_that_claims_more_than_deflate_can_hold_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped(npy((30, 2))))
    place = data.rindex(b"PK\x01\x02") + 24  # the size before compression, in the directory
    data[place : place + 4] = struct.pack("<I", 2**31)
    (tmp_path / "a.npz").write_bytes(bytes(data))
    refused(tmp_path / "a.npz", "more than it can hold")


def test_parquet_of_constants_without_end_is_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": np.zeros(1_000_000, dtype=np.int8), "b": np.zeros(1_000_000, dtype=np.int8)})
    frame.to_parquet(tmp_path / "a.parquet", compression="zstd")
    check_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="1,000,000 rows of 2 columns"):
        check_parquet(tmp_path / "a.parquet", per_byte=10, few=1000)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".npy", ".npz"])
@pytest.mark.parametrize("other", ["a pipe", "a device", "a sparse file of 20 GB"])
def test_what_is_no_table_is_not_read(suffix: str, other: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    if other == "a pipe":
        os.mkfifo(path)
    elif other == "a device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as sparse:
            sparse.truncate(20 * 10**9)
    refused(path, "regular file|first bytes|zero bytes")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet"])
def test_whole_table_is_read(suffix: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(30, 2))
    write_table(tmp_path / f"a{suffix}", rows, ["a", "b"])
    assert np.array_equal(read_table(tmp_path / f"a{suffix}").values, rows)

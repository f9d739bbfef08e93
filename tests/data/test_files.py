"""Files are read for what they say or refused by name, and written whole or not at all."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jkoflow.data.files import check_output, hash_file, read_file, write_table
from jkoflow.data.reading import read_table
from jkoflow.errors import InputError, RunFolderError

VALUES = np.array([[0.1, 1 / 3, 1e-12], [2.5e12, -0.0, np.pi], [1e300, 5e-324, -1.0]])
COLUMNS = ("a", "b c", "d,e")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".CSV"])
def test_named_file_reads_back_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    write_table(path, VALUES, COLUMNS)
    content = read_file(path).content
    assert isinstance(content, pd.DataFrame)
    assert tuple(content.columns) == COLUMNS
    assert content.to_numpy().tobytes() == VALUES.tobytes()


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_array_file_reads_back_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    write_table(path, VALUES, COLUMNS)
    content = read_file(path).content
    assert isinstance(content, np.ndarray)
    assert content.tobytes() == VALUES.tobytes()
    assert content.shape == VALUES.shape


def test_scores_are_one_column_of_text_and_a_vector_of_numbers(tmp_path: Path) -> None:
    scores = VALUES[:, 0]
    write_table(tmp_path / "scores.csv", scores, ["log_prob"])
    write_table(tmp_path / "scores.npy", scores, ["log_prob"])
    assert (tmp_path / "scores.csv").read_text().splitlines()[0] == "log_prob"
    assert np.load(tmp_path / "scores.npy", allow_pickle=False).shape == (3,)


def test_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"abc")
    assert hash_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(InputError, match=r"x\.npy"):
        hash_file(tmp_path / "x.npy")


# ── text ──


def write_text(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2\n3,4\n",
        "a,b\r\n1,2\r\n3,4\r\n",
        "\ufeffa,b\n1,2\n3,4\n",
        "a, b\n1, 2\n3, 4",
        '"a", "b"\n1, 2\n3, 4\n',
    ],
    ids=["plain", "windows", "byte order mark", "spaces", "quoted"],
)
def test_dialects_of_csv(tmp_path: Path, text: str) -> None:
    content = read_file(write_text(tmp_path / "t.csv", text)).content
    assert isinstance(content, pd.DataFrame)
    assert list(content.columns) == ["a", "b"]
    assert content.to_numpy().tolist() == [[1, 2], [3, 4]]


def test_a_first_line_of_numbers_is_a_row_and_a_note_says_so(tmp_path: Path) -> None:
    raw = read_file(write_text(tmp_path / "t.csv", "1.5,2\n3,4\n"))
    assert isinstance(raw.content, pd.DataFrame)
    assert raw.content.to_numpy().tolist() == [[1.5, 2], [3, 4]]
    assert list(raw.content.columns) == ["x0", "x1"]
    assert raw.names_columns is False
    assert "no header" in raw.notes[0]


def test_counting_names_of_pandas_are_a_header(tmp_path: Path) -> None:
    raw = read_file(write_text(tmp_path / "t.csv", "0,1,2\n5,6,7\n"))
    assert len(raw.content) == 1
    assert raw.names_columns is True
    assert raw.notes == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        ("0,1\n2,3\n", "may be a header or a row"),
        ("0\n2\n", "may be a header or a row"),
        (",a\n0,1\n", "column 1 has no name.*index=False"),
        ("a;b\n1;2\n", "one column named 'a;b'.*commas"),
        ("a,b\n1,2,3\n4,5,6\n", "more fields than the header's 2"),
        ("a,b\n1,2\n1,2,3\n", "damaged or cut short"),
        ('a,b\n1,"2\n', "damaged or cut short"),
    ],
)
def test_damaged_text_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = write_text(tmp_path / "t.csv", text)
    with pytest.raises(InputError, match=message) as caught:
        read_file(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\n\xff\xfe,2\n")
    with pytest.raises(InputError, match=r"t\.csv: not a readable \.csv file"):
        read_file(path)


# ── binary ──


@pytest.mark.parametrize("suffix", [".parquet", ".npy", ".npz"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_truncated_binary_is_refused_by_name(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"t{suffix}"
    write_table(path, np.random.default_rng(0).normal(size=(500, 3)), COLUMNS)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(InputError, match=rf"t\{suffix}") as caught:
        read_file(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".parquet", ".npy", ".npz"])
def test_other_bytes_under_a_binary_name_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="damaged or cut short"):
        read_file(path)


def test_flipped_bytes_of_an_archive_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).normal(size=(500, 3)))
    damaged = bytearray(path.read_bytes())
    damaged[2000:2010] = b"\0" * 10
    path.write_bytes(bytes(damaged))
    with pytest.raises(InputError, match=r"t\.npz"):
        read_file(path)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npy", ".npz"])
def test_random_damage_is_read_or_refused_and_nothing_else(tmp_path: Path, suffix: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path = tmp_path / f"t{suffix}"
    write_table(path, rng.normal(size=(20, 3)), COLUMNS)
    whole, refused = path.read_bytes(), 0
    for _ in range(150):
        damaged = bytearray(whole)
        # the header of a .npy file is its first 128 bytes; damage to the numbers themselves cannot be seen
        for place in rng.integers(0, 128 if suffix == ".npy" else len(whole), size=3):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(bytes(damaged))
        try:
            read_table(path)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 50


def test_archive_of_one_array_or_a_known_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", rows=VALUES)
    np.savez(tmp_path / "named.npz", X=VALUES, y=np.zeros(3))
    np.savez(tmp_path / "several.npz", train=VALUES, test=VALUES)
    for name in ("one", "named"):
        content = read_file(tmp_path / f"{name}.npz").content
        assert isinstance(content, np.ndarray)
        assert np.array_equal(content, VALUES)
    with pytest.raises(InputError, match="got train, test; save the table alone"):
        read_file(tmp_path / "several.npz")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_pickled_objects_are_never_loaded(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    objects = np.array([[1, "a"], [None, 2]], dtype=object)
    if suffix == ".npy":
        np.save(path, objects, allow_pickle=True)
    else:
        np.savez(path, x=objects)
    with pytest.raises(InputError, match=rf"t\{suffix}"):
        read_file(path)


def test_array_kinds_are_not_confused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=VALUES)
    np.save(tmp_path / "b.npy", VALUES)
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    (tmp_path / "b.npy").rename(tmp_path / "b.npz")
    with pytest.raises(InputError, match=r"name it \.npz"):
        read_file(tmp_path / "a.npy")
    with pytest.raises(InputError, match=r"name it \.npy"):
        read_file(tmp_path / "b.npz")


def test_missing_folder_and_unknown_kinds(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_file(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match="got a folder"):
        read_file(tmp_path / "folder.csv")
    with pytest.raises(InputError, match=r"\.csv, \.tsv, \.parquet, \.npy, \.npz, got '\.xlsx'"):
        read_file(tmp_path / "t.xlsx")
    with pytest.raises(InputError, match="got no suffix"):
        read_file(tmp_path / "t")


# ── writing ──


def test_existing_file_is_kept_unless_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("precious")
    with pytest.raises(RunFolderError, match="already there"):
        write_table(path, VALUES, COLUMNS)
    assert path.read_text() == "precious"
    write_table(path, VALUES, COLUMNS, overwrite=True)
    assert path.read_text().startswith("a,b c")


def test_output_can_be_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"got '\.txt'"):
        check_output(tmp_path / "t.txt")
    with pytest.raises(InputError, match="folder"):
        check_output(tmp_path / "none" / "t.csv")
    with pytest.raises(InputError, match="2 columns to write"):
        write_table(tmp_path / "t.csv", VALUES, ["a", "b"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npy", ".npz"])
def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    path.write_text("old")
    # a limit on the size of files stands in for a full disk: the system refuses the write in the same place
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(RunFolderError) as caught:
            write_table(path, np.random.default_rng(0).normal(size=(5000, 3)), COLUMNS, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    # the system's own reason, not numpy's or pyarrow's count of bytes
    assert "File too large" in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "old"

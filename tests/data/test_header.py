"""Names that a spreadsheet would run stand behind an apostrophe in text, and come back without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jkoflow.data import names_guarded, read_table, write_table
from jkoflow.data.header import guarded, unguarded

NAMES = ("=cmd()", "+1", "-x", "@SUM(A1)", "'=x", "''=x", "'plain", "plain", "-", "a=b", "=a,b", '=a"b')


@pytest.mark.parametrize("name", NAMES)
def test_name_comes_back(name: str) -> None:
    assert unguarded(guarded(name)) == name
    assert not guarded(name).startswith(("=", "+", "-", "@"))


def test_name_that_is_no_formula_is_written_as_it_is() -> None:
    assert [guarded(name) for name in ("plain", "'plain", "a=b", "")] == ["plain", "'plain", "a=b", ""]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_names_come_back_from_a_file(suffix: str, tmp_path: Path) -> None:
    write_table(tmp_path / f"a{suffix}", np.eye(len(NAMES)), NAMES)
    header = (tmp_path / f"a{suffix}").read_text().splitlines()[0]
    assert not header.startswith("=")
    assert read_table(tmp_path / f"a{suffix}").columns == NAMES


def test_note_says_what_stands_in_the_file(tmp_path: Path) -> None:
    note = names_guarded(tmp_path / "a.csv", ["=a", "b"])
    assert "1 column name" in note
    assert "apostrophe" in note
    assert note.endswith("=a")
    assert names_guarded(tmp_path / "a.csv", ["a", "b"]) == ""
    assert names_guarded(tmp_path / "a.parquet", ["=a", "b"]) == ""


def test_parquet_keeps_the_name(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", np.eye(2), ["=a", "b"])
    assert read_table(tmp_path / "a.parquet").columns == ("=a", "b")

"""Entries of a record are what they have to be, or are refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jkoflow.errors import RunFolderError
from jkoflow.storage import open_regular, read_bytes, read_json
from jkoflow.storage.entries import brief, checked_real, checked_text, checked_whole, require_names

HUGE = 10**400


@pytest.mark.parametrize("value", [True, 2.5, "3", None, [], -1, 8])
def test_whole_number_is_asked_for(value: object) -> None:
    with pytest.raises(ValueError, match=r"^steps: expected a whole number from 0 to 7, got "):
        checked_whole({"steps": value}, "steps", most=7)


@pytest.mark.parametrize("value", [True, "3", None, [], float("nan"), float("inf"), HUGE, -HUGE, 0.0, -1])
def test_number_above_0_is_asked_for(value: object) -> None:
    with pytest.raises(ValueError, match=r"^gamma: expected a finite number above 0, got "):
        checked_real({"gamma": value}, "gamma", above=0.0)


def test_what_is_right_comes_back() -> None:
    record = {"steps": 3, "gamma": 2, "kind": "mlp"}
    assert (checked_whole(record, "steps"), checked_real(record, "gamma")) == (3, 2.0)
    assert (checked_text(record, "kind"), checked_whole(record, "depth", default=4)) == ("mlp", 4)
    require_names(record, {"steps", "gamma"}, optional={"kind", "depth"})


@pytest.mark.parametrize(
    ("record", "word"),
    [([1], "a table of settings"), ({}, "a: the entry is missing"), ({"a": 1, "b": 2}, "'b'")],
)
def test_other_entries_are_refused(record: object, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        require_names(record, {"a"})


def test_message_stays_short() -> None:
    for value in ("x" * 10**6, [[0] * 10**5], 10**4000, 10**5000, {"a": {"b": [1] * 999}}):
        assert len(brief(value)) <= 60


@pytest.mark.parametrize("digits", ["1e999", "-1e400"])
def test_number_beyond_floats_is_no_json(digits: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(f'{{"format": "jkoflow/1", "a": {digits}}}')
    with pytest.raises(RunFolderError, match="damaged"):
        read_json(tmp_path / "a.json")


def test_file_larger_than_its_kind_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(tmp_path / "a", most=5) == b"12345"
    with pytest.raises(RunFolderError, match="expected at most 4 bytes, got 5"):
        read_bytes(tmp_path / "a", most=4)


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="expected a regular file, got a device or a pipe"):
        open_regular(tmp_path / "pipe")
    with pytest.raises(OSError, match="expected a regular file, got a folder"):
        open_regular(tmp_path)

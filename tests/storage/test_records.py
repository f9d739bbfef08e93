"""Laws of strict JSON and of records that are only ever appended."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jkoflow.errors import RunFolderError
from jkoflow.storage import (
    FORMAT,
    append_jsonl,
    encode_json,
    read_json,
    read_jsonl,
    require_format,
    to_json,
    write_json_atomic,
    write_jsonl_atomic,
)
from kill_points import kill_points

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
OBJECTS = st.dictionaries(
    st.text().filter(lambda key: key != "format"),
    st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8),
)


@given(value=OBJECTS)
def test_round_trip_is_exact(tmp_path_factory: pytest.TempPathFactory, value: dict[str, object]) -> None:
    file = tmp_path_factory.mktemp("json") / "a.json"
    write_json_atomic(file, value)
    assert read_json(file) == {"format": FORMAT, **value}


@given(value=OBJECTS)
def test_line_is_one_line_and_the_same_every_time(value: dict[str, object]) -> None:
    line = encode_json(value)
    assert b"\n" not in line
    assert line == encode_json(json.loads(line))
    assert line.startswith(b'{"format": "jkoflow/1"')


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, np.float32("nan"), torch.tensor(math.inf)])
def test_numbers_that_json_lacks_are_null(tmp_path: Path, number: object) -> None:
    write_json_atomic(tmp_path / "a.json", {"loss": number, "deep": [{"loss": (1.0, number)}]})
    text = (tmp_path / "a.json").read_text()
    assert not {"NaN", "Infinity"} & set(text.replace(",", " ").split())
    found = read_json(tmp_path / "a.json")
    assert (found["loss"], found["deep"]) == (None, [{"loss": [1.0, None]}])


def test_numbers_of_numpy_and_torch_become_plain() -> None:
    value = {
        "a": np.float32(0.5),
        "b": np.int64(3),
        "c": np.bool_(True),
        "d": np.arange(3),
        "e": torch.tensor([0.25, math.nan]),
        "f": (1, 2),
    }
    expected = {"a": 0.5, "b": 3, "c": True, "d": [0, 1, 2], "e": [0.25, None], "f": [1, 2]}
    found = to_json(value)
    assert found == expected
    assert [type(entry) for entry in found.values()] == [type(entry) for entry in expected.values()]


@pytest.mark.parametrize(
    "value", [{"a": object()}, {"a": {1: 2}}, {"a": {1, 2}}, {"a": Path("x")}, {"a": 1j}]
)
def test_anything_else_is_an_error_of_the_caller(tmp_path: Path, value: dict[str, object]) -> None:
    with pytest.raises(TypeError, match="JSON: expected"):
        write_json_atomic(tmp_path / "a.json", value)
    assert list(tmp_path.iterdir()) == []


def test_file_name_that_is_not_unicode_survives(tmp_path: Path) -> None:
    name = os.fsdecode(b"gr\xfc\xdfe.csv")
    write_json_atomic(tmp_path / "a.json", {"path": name, "column": "Größe"})
    found = read_json(tmp_path / "a.json")
    assert (found["path"], found["column"]) == (name, "Größe")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"format": "jkoflow/1", "a": 1',
        b'{"format": "jkoflow/1", "a": NaN}',
        b'{"format": "jkoflow/1", "a": -Infinity}',
        b"\xff\xfe\x00",
        b"\x00" * 64,
        b"[" * 100_000,
        b'{"format": "jkoflow/1", "a": ' + b"9" * 5000 + b"}",
        b"[1]",
        b"null",
    ],
)
def test_damaged_file_is_refused_in_one_line_with_the_remedy(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(
        RunFolderError, match=r"a\.json: damaged or half-written .*; train it again"
    ) as caught:
        read_json(tmp_path / "a.json", remedy="train it again")
    assert str(caught.value).isprintable()


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "a.json", {"a": [1.5, "x"], "b": None})
    data = (tmp_path / "a.json").read_bytes()
    for length in range(len(data) - 1):  # without the last line end it is still whole
        (tmp_path / "a.json").write_bytes(data[:length])
        with pytest.raises(RunFolderError, match="damaged or half-written"):
            read_json(tmp_path / "a.json")


@pytest.mark.parametrize("found", ["jkoflow/2", "jkoflow/1.1", "jkoflow/"])
def test_other_version_is_refused_by_name(found: str) -> None:
    with pytest.raises(RunFolderError, match=f"expected format 'jkoflow/1', got '{found}'.*upgrade"):
        require_format(found, "a.json")


@pytest.mark.parametrize("found", [None, 1, "wandb", ["jkoflow/1"], {"jkoflow/1": 1}])
def test_file_of_another_kind_is_refused(found: object) -> None:
    with pytest.raises(RunFolderError, match="not a file of format"):
        require_format(found, "a.json")


def test_missing_file_and_folder_in_its_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"a\.json: missing"):
        read_json(tmp_path / "a.json")
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_json(tmp_path)


def test_records_come_back_in_order(tmp_path: Path) -> None:
    file = tmp_path / "steps.jsonl"
    assert read_jsonl(file) == []
    for block in range(3):
        append_jsonl(file, {"block": block, "loss": math.nan})
    assert read_jsonl(file) == [{"format": FORMAT, "block": block, "loss": None} for block in range(3)]


@pytest.mark.parametrize("tail", [b'{"format": "jkoflow/1", "block": 9}', b"{", b"\x00" * 70_000])
def test_torn_last_line_is_no_record_and_is_cut_off_by_the_next(tmp_path: Path, tail: bytes) -> None:
    file = tmp_path / "steps.jsonl"
    append_jsonl(file, {"block": 1})
    whole = file.read_bytes()
    file.write_bytes(whole + tail)
    assert [record["block"] for record in read_jsonl(file)] == [1]
    append_jsonl(file, {"block": 2})
    assert file.read_bytes() == whole + encode_json({"block": 2}) + b"\n"


def test_record_is_on_the_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    append_jsonl(tmp_path / "steps.jsonl", {"block": 1})
    assert (tmp_path / "steps.jsonl").stat().st_size in sizes
    assert len(sizes) == 2  # the new file, and its name in the folder
    append_jsonl(tmp_path / "steps.jsonl", {"block": 2})
    assert sizes[2:] == [(tmp_path / "steps.jsonl").stat().st_size]


def test_torn_line_after_many_whole_ones(tmp_path: Path) -> None:
    file = tmp_path / "steps.jsonl"
    for block in (1, 2, 3):
        append_jsonl(file, {"block": block, "note": "x" * 50_000})
    file.write_bytes(file.read_bytes() + b"y" * 90_000)
    append_jsonl(file, {"block": 4})
    assert [record["block"] for record in read_jsonl(file)] == [1, 2, 3, 4]


def test_file_that_is_only_a_torn_line(tmp_path: Path) -> None:
    file = tmp_path / "steps.jsonl"
    file.write_bytes(b"x" * 200_000)
    assert read_jsonl(file) == []
    append_jsonl(file, {"block": 1})
    assert [record["block"] for record in read_jsonl(file)] == [1]


def test_damage_before_the_last_line_is_refused_by_its_number(tmp_path: Path) -> None:
    file = tmp_path / "steps.jsonl"
    file.write_bytes(encode_json({"block": 1}) + b"\n{\n" + encode_json({"block": 3}) + b"\n")
    with pytest.raises(RunFolderError, match=r"steps\.jsonl: damaged or half-written \(line 2"):
        read_jsonl(file)


@pytest.mark.parametrize("call", ["write", "fsync", "open"])
def test_full_disk_keeps_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    file = tmp_path / "steps.jsonl"
    append_jsonl(file, {"block": 1})
    before, plain = file.read_bytes(), os.write

    def refuse(*arguments: object) -> int:
        if call == "write" and len(arguments[1]) > 10:
            return plain(arguments[0], bytes(arguments[1])[:10])
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(RunFolderError, match=r"steps\.jsonl: no space left on device"):
            append_jsonl(file, {"block": 2})
    assert file.read_bytes() == before


def test_kill_at_any_point_leaves_whole_records(tmp_path: Path) -> None:
    file = tmp_path / "steps.jsonl"
    append_jsonl(file, {"block": 1})
    seen = set()
    for _ in kill_points(lambda: append_jsonl(file, {"block": 2})):
        append_jsonl(file, {"block": 3})
        seen.add(tuple(record["block"] for record in read_jsonl(file)))
        write_jsonl_atomic(file, [{"block": 1}])
    assert seen == {(1, 3), (1, 2, 3)}

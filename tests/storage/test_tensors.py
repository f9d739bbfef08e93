"""Laws of tensor files: exact, the same bytes every time, damage never read."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from jkoflow.errors import RunFolderError
from jkoflow.storage.tensors import read_safetensors, write_safetensors


def tensors() -> dict[str, torch.Tensor]:
    matrix = torch.randn(4, 3, dtype=torch.float64)
    return {
        "float64": matrix,
        "transposed view of the same memory": matrix.T,
        "float32": torch.tensor([0.1, float("nan"), -float("inf")]),
        "float16": torch.randn(5).half(),
        "int64": torch.arange(3),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 7),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "expanded": torch.ones(1).expand(6),
    }


def test_round_trip_is_exact(tmp_path: Path) -> None:
    expected = tensors()
    write_safetensors(tmp_path / "a.safetensors", expected)
    found = read_safetensors(tmp_path / "a.safetensors")
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(found[name].nan_to_num(7.0), tensor.nan_to_num(7.0)), name
        assert not found[name].requires_grad


def test_what_is_read_can_be_changed_without_touching_the_rest(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"a": torch.zeros(3), "b": torch.zeros(3)})
    found = read_safetensors(tmp_path / "a.safetensors")
    found["a"] += 1.0
    assert torch.equal(found["b"], torch.zeros(3))


def test_same_tensors_give_the_same_bytes_and_the_hash_returned(tmp_path: Path) -> None:
    values = tensors()
    first = write_safetensors(tmp_path / "a.safetensors", values)
    second = write_safetensors(tmp_path / "b.safetensors", dict(reversed(values.items())))
    data = (tmp_path / "a.safetensors").read_bytes()
    assert data == (tmp_path / "b.safetensors").read_bytes()
    assert first == second == hashlib.sha256(data).hexdigest()


def test_no_tensors_are_a_file_too(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {})
    assert read_safetensors(tmp_path / "a.safetensors") == {}


def test_every_changed_byte_is_seen_by_the_hash(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    sha256 = write_safetensors(file, {"a": torch.arange(2.0)})
    data = file.read_bytes()
    for place in range(len(data)):
        file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(RunFolderError, match=r"a\.safetensors: .*; (retrain|read it with)"):
            read_safetensors(file, sha256=sha256, remedy="retrain")


def test_every_cut_is_seen_without_a_hash(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    write_safetensors(file, {"a": torch.arange(2.0)})
    data = file.read_bytes()
    for length in range(len(data)):
        file.write_bytes(data[:length])
        with pytest.raises(RunFolderError, match="damaged or half-written"):
            read_safetensors(file)


@pytest.mark.parametrize(
    "data", [b"\xff" * 64, b"\x80\x04pickle.", b"\x02" + b"\x00" * 7 + b"[]", b"PK\x03\x04" * 9]
)
def test_file_of_another_kind_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(RunFolderError, match="not a safetensors file") as caught:
        read_safetensors(tmp_path / "a.safetensors")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"format": "jkoflow/2"}, "got 'jkoflow/2'"),
        ({"format": "pt"}, "not a file of"),
        (None, "not a file of"),
    ],
)
def test_other_format_is_refused(tmp_path: Path, metadata: dict[str, str] | None, reason: str) -> None:
    data = safetensors.torch.save({"a": torch.ones(1)}, metadata=metadata)
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(RunFolderError, match=reason):
        read_safetensors(tmp_path / "a.safetensors")


def test_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.safetensors"
    sha256 = write_safetensors(file, {"a": torch.zeros(3)})

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        with pytest.raises(RunFolderError, match=r"a\.safetensors: no space left on device"):
            write_safetensors(file, {"a": torch.ones(3)})
    assert torch.equal(read_safetensors(file, sha256=sha256)["a"], torch.zeros(3))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"a\.safetensors: missing"):
        read_safetensors(tmp_path / "a.safetensors")

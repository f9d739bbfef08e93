"""Laws of checkpoints: exact, in order, whole or absent, damage named with the way on."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from jkoflow.errors import RunFolderError
from jkoflow.runs.checkpoints import (
    checkpointed_blocks,
    drop_checkpoints,
    drop_half_written,
    read_checkpoint,
    write_checkpoint,
)
from kill_points import kill_points

META = {"block_type": "affine", "gamma": 0.1, "losses": [1.0, math.nan], "deep": {"name": "ä", "none": None}}


def write(folder: Path, blocks: int) -> None:
    for block in range(1, blocks + 1):
        write_checkpoint(folder, block, {"weight": torch.full((2,), block / 3)}, META)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    write(tmp_path / "checkpoints", 2)
    assert checkpointed_blocks(tmp_path / "checkpoints") == 2
    for block in (1, 2):
        tensors, meta = read_checkpoint(tmp_path / "checkpoints", block)
        assert torch.equal(tensors["weight"], torch.full((2,), block / 3))
        assert meta == {**META, "losses": [1.0, None]}


def test_no_folder_holds_no_checkpoints(tmp_path: Path) -> None:
    assert checkpointed_blocks(tmp_path / "checkpoints") == 0
    drop_half_written(tmp_path / "checkpoints")


def test_more_than_9999_blocks_stay_in_order(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 9999, {}, {})
    write_checkpoint(tmp_path, 10000, {}, {})
    assert read_checkpoint(tmp_path, 10000)[1] == {}
    drop_checkpoints(tmp_path, after=9999)
    assert names(tmp_path) == ["block_9999.json", "block_9999.safetensors"]


def test_kill_at_any_point_leaves_a_whole_checkpoint_or_none(tmp_path: Path) -> None:
    write(tmp_path, 1)
    seen = set()
    tensors = {"weight": torch.ones(3)}
    for _ in kill_points(lambda: write_checkpoint(tmp_path, 2, tensors, META)):
        blocks = checkpointed_blocks(tmp_path)
        for block in range(1, blocks + 1):
            read_checkpoint(tmp_path, block)
        seen.add(blocks)
        drop_checkpoints(tmp_path, after=1)
        assert checkpointed_blocks(tmp_path) == 1
    assert seen == {1, 2}


def test_tensors_without_json_do_not_count_and_are_dropped(tmp_path: Path) -> None:
    write(tmp_path, 2)
    (tmp_path / "block_0002.json").unlink()
    assert checkpointed_blocks(tmp_path) == 1
    drop_half_written(tmp_path)
    assert names(tmp_path) == ["block_0001.json", "block_0001.safetensors"]


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path, 2)
    for name in ("block_1.json", "block_0002.json.bak", "notes.txt", "block_0003.safetensors.part"):
        (tmp_path / name).write_text("mine")
    drop_checkpoints(tmp_path, after=0)
    assert names(tmp_path) == [
        "block_0002.json.bak",
        "block_0003.safetensors.part",
        "block_1.json",
        "notes.txt",
    ]


@pytest.mark.parametrize("kind", ["safetensors", "json"])
def test_every_changed_byte_is_refused_with_file_and_remedy(tmp_path: Path, kind: str) -> None:
    write(tmp_path, 3)
    file = tmp_path / f"block_0002.{kind}"
    data = file.read_bytes()
    known = data.index(b'"tensors_sha256"') if kind == "json" else 0
    for place in range(known, len(data) - 2):
        file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(RunFolderError, match=r"block_0002\.") as caught:
            read_checkpoint(tmp_path, 2)
        message = str(caught.value)
        assert message.isprintable()
        assert "delete block_0002.* and all later ones there to --resume with block 1, or" in message


def test_the_remedy_works(tmp_path: Path) -> None:
    write(tmp_path, 3)
    (tmp_path / "block_0002.safetensors").write_bytes(b"")
    for block in (2, 3):
        for file in tmp_path.glob(f"block_000{block}.*"):
            file.unlink()
    assert checkpointed_blocks(tmp_path) == 1


@pytest.mark.parametrize(
    ("gone", "reason"),
    [("block_0002.json", "missing, though later ones exist"), ("block_0001.json", "--resume with no block")],
)
def test_gap_is_refused(tmp_path: Path, gone: str, reason: str) -> None:
    write(tmp_path, 3)
    (tmp_path / gone).unlink()
    with pytest.raises(RunFolderError, match=reason) as caught:
        checkpointed_blocks(tmp_path)
    assert gone in str(caught.value)


def test_missing_tensors_are_refused(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / "block_0001.safetensors").unlink()
    with pytest.raises(RunFolderError, match=r"block_0001\.safetensors: missing; delete"):
        read_checkpoint(tmp_path, 1)


def test_later_format_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, 1)
    file = tmp_path / "block_0001.json"
    file.write_text(file.read_text().replace("jkoflow/1", "jkoflow/2", 1))
    with pytest.raises(RunFolderError, match="got 'jkoflow/2' from another version"):
        read_checkpoint(tmp_path, 1)


def test_tensors_of_another_block_are_refused(tmp_path: Path) -> None:
    write(tmp_path, 2)
    (tmp_path / "block_0002.safetensors").replace(tmp_path / "block_0001.safetensors")
    with pytest.raises(RunFolderError, match="SHA-256"):
        read_checkpoint(tmp_path, 1)

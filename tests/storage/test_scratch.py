"""Arrays that go to the disk from a size on: nameless files, gone with the array, refused on a full disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from jkoflow.errors import InputError
from jkoflow.storage import scratch
from jkoflow.storage.scratch import empty_array, is_large, row_slices
from oracles.scratch_files import lies_in_a_file, map_everything, mapped_files


def test_small_arrays_are_in_memory_and_large_ones_are_not() -> None:
    assert scratch.MAPPED_BYTES == 256 * 2**20
    assert [is_large(size) for size in (2**28 - 1, 2**28)] == [False, True]
    assert not lies_in_a_file(empty_array((10, 2), np.float64))


def test_a_mapped_array_is_an_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    map_everything(monkeypatch, tmp_path)
    array = empty_array((50, 3), np.float32)
    assert lies_in_a_file(array)
    assert type(array) is np.ndarray
    assert (array.shape, array.dtype, array.any()) == ((50, 3), np.float32, False)
    array[:] = np.arange(150).reshape(50, 3)
    tensor = torch.from_numpy(array)
    tensor[0, 0] = -1
    assert array[0].tolist() == [-1, 1, 2]
    assert float(tensor.sum()) == 149 * 75 - 1
    assert empty_array((0, 3), np.float64).shape == (0, 3)


def test_its_file_has_no_name_and_goes_with_the_last_view(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = map_everything(monkeypatch, tmp_path)
    view = torch.from_numpy(empty_array((5000, 3), np.float64))[10:20]
    assert list(folder.iterdir()) == []
    assert mapped_files(folder) == 1
    view += 1
    del view
    assert mapped_files(folder) == 0


def test_a_full_disk_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = map_everything(monkeypatch, tmp_path)

    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(InputError, match=r"expected 8 MB free in .*No space left.*; set TMPDIR"):
        empty_array((2**20,), np.float64)
    assert mapped_files(folder) == 0


@pytest.mark.parametrize("n_rows", [0, 1, 15, 16, 17, 31, 32, 100])
def test_slices_are_all_rows_in_order_and_none_is_short(n_rows: int) -> None:
    slices = row_slices(n_rows, 16)
    assert [row for part in slices for row in range(n_rows)[part]] == list(range(n_rows))
    assert len(slices) == 1 or min(part.stop - part.start for part in slices) >= 16
    assert max(part.stop - part.start for part in slices) < 32


@pytest.mark.parametrize("n_rows", [5, 33, 100, 1000])
@pytest.mark.parametrize("draw", [torch.rand, torch.randn])
def test_noise_drawn_slice_by_slice_is_noise_drawn_at_once(draw, n_rows: int) -> None:
    """What lets a table be encoded in chunks without a change of a single bit."""
    source, again = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    whole = draw(n_rows, 3, generator=source, dtype=torch.float64)
    sizes = [part.stop - part.start for part in row_slices(n_rows, 16)]
    parts = [draw(size, 3, generator=again, dtype=torch.float64) for size in sizes]
    assert torch.equal(torch.cat(parts), whole)

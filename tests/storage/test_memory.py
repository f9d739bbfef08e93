"""What is left of the memory, as Linux tells it, and how bytes are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from jkoflow.errors import InputError
from jkoflow.storage import memory
from jkoflow.storage.memory import available_memory, format_bytes, require_memory

MB = 2**20


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": f"MemTotal: 9999 kB\nMemFree: 1 kB\nMemAvailable:   {800 * 1024} kB\n"}
VERSION_2 = {
    "proc/self/cgroup": "0::/user/job\n",
    "sys/fs/cgroup/user/memory.max": f"{500 * MB}\n",
    "sys/fs/cgroup/user/memory.current": f"{300 * MB}\n",
    "sys/fs/cgroup/user/memory.stat": f"anon 5\ninactive_file {100 * MB}\n",
    "sys/fs/cgroup/user/job/memory.max": "max\n",
    "sys/fs/cgroup/user/job/memory.current": "1\n",
}
VERSION_1 = {
    "proc/self/cgroup": "5:cpuset:/\n4:cpu,memory:/job\n0::/\n",
    "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{400 * MB}\n",
    "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{300 * MB}\n",
    "sys/fs/cgroup/memory/job/memory.stat": f"inactive_file 3\ntotal_inactive_file {20 * MB}\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "1\n",
}
IN_A_CONTAINER = {
    "proc/self/cgroup": "4:memory:/not/to/be/seen/here\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{50 * MB}\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{60 * MB}\n",
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (MEMINFO, 800 * MB),
        (MEMINFO | VERSION_2, 300 * MB),
        (MEMINFO | VERSION_1, 120 * MB),
        (MEMINFO | IN_A_CONTAINER, 0),
    ],
    ids=["no group", "version 2, limit above", "version 1", "over the limit in a container"],
)
def test_least_of_all_limits_counts(files: dict[str, str], expected: int, tmp_path: Path) -> None:
    found = available_memory(system(tmp_path, files))
    assert found == expected


def test_address_space_of_the_process_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (90 * MB, resource.RLIM_INFINITY))
    pages = 40 * MB // resource.getpagesize()
    assert available_memory(system(tmp_path, MEMINFO | {"proc/self/statm": f"{pages} 1 1\n"})) == 50 * MB


@pytest.mark.parametrize(
    ("n_bytes", "told"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_234_000, "1.2 MB"),
        (123_456_789_000, "123 GB"),
        (64 * 10**12, "64.0 TB"),
        (10**24, "1,000,000 EB"),
    ],
)
def test_bytes_are_told_in_the_largest_unit(n_bytes: int, told: str) -> None:
    assert format_bytes(n_bytes) == told


def test_what_fits_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    require_memory(1000, "rows: expected few, got many", remedy="take fewer")
    with pytest.raises(InputError, match=r"^rows: .+ 1\.0 kB of memory .+ 1\.0 kB are free; take"):
        require_memory(1001, "rows: expected few, got many", remedy="take fewer")

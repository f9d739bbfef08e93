"""Files that are not whole yet: their names say whose they are, so that those of the dead can be cleared.

    .jkoflow-tmp-PLACE-PROCESS-BIRTH-RANDOM.suffix
    PLACE: this start of this machine, with its name and process namespace;  BIRTH: when the process began

A killed process leaves its own behind, and the next that writes beside them deletes them. What is of another
place (another machine or container that shares the disk, or this one before it was started again) may be of a
living process, and stays. Source: proc(5), pid_namespaces(7); POSIX.1-2017, kill().
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import shutil
from contextlib import suppress
from functools import cache
from pathlib import Path

__all__ = ["TEMPORARY_PREFIX", "remove_leftovers", "temporary_name"]

TEMPORARY_PREFIX = ".jkoflow-tmp-"
"""First letters of the name of a file or folder that is not whole yet; a kill may leave one behind."""

_OWNED = re.compile(r"([0-9a-f]{8})-(\d+)-(\d+)-[0-9a-f]{8}(\..*)?", re.DOTALL)


def temporary_name(target: Path) -> Path:
    """Return a new name beside `target`, of the same suffix, for what is not whole yet."""
    process = os.getpid()
    owner = f"{_place()}-{process}-{_birth(process) or 0}"
    return target.with_name(f"{TEMPORARY_PREFIX}{owner}-{secrets.token_hex(4)}{target.suffix[:32]}")


def remove_leftovers(folder: Path, *, of_other_places: bool = False) -> None:
    """Delete in `folder` what processes that have ended left half-written; what cannot be deleted stays.

    Arguments:
        folder: Where to look; folders in it are not entered.
        of_other_places: True where no process of another machine can be writing, as under a lock: then what
            is of other places, or of versions with other names, goes too.
    """
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            if not entry.name.startswith(TEMPORARY_PREFIX):
                continue
            owner = _OWNED.fullmatch(entry.name.removeprefix(TEMPORARY_PREFIX))
            is_of_here = owner is not None and owner[1] == _place()
            if is_of_here and owner is not None and _is_alive(int(owner[2]), int(owner[3])):
                continue
            if is_of_here or of_other_places:
                _remove(Path(entry.path))


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _is_alive(process: int, birth: int) -> bool:
    """Whether the process of that number and birth runs; True where that cannot be found out."""
    if os.name != "posix":  # there, signal 0 would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    if _text(f"/proc/{process}/stat").rpartition(")")[2].split()[:1] in (["Z"], ["X"]):
        return False  # it has ended, and nobody has asked how
    now = _birth(process)
    return now is None or not birth or now == birth


def _birth(process: int) -> int | None:
    """When a process began, in ticks since the machine did; None where the system does not tell."""
    fields = _text(f"/proc/{process}/stat").rpartition(")")[2].split()
    return int(fields[19]) if len(fields) > 19 and fields[19].isdigit() else None


@cache
def _place() -> str:
    """A name for where process numbers mean what they mean here: eight hexadecimal digits."""
    namespace = ""
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    parts = (platform.node(), _text("/etc/machine-id"), _text("/proc/sys/kernel/random/boot_id"), namespace)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

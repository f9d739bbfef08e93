"""One writer or many readers of a folder, by a lock that ends with the process that holds it.

    writer: flock(file, exclusive)        reader: flock(file, shared)

No lock goes stale, since the system releases that of a killed process. Where it knows no `flock` (Windows,
some network disks) a writer creates a marker file instead, readers only look for it, and a killed writer
leaves it behind. Source: Linux man-pages, flock(2).
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from jkoflow.errors import RunFolderError
from jkoflow.storage.files import shown, write_all, writing

try:
    from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock

    HAS_FLOCK = True
except ImportError:
    HAS_FLOCK = False

__all__ = ["HAS_FLOCK", "FolderLock"]

_HELD = {errno.EWOULDBLOCK, errno.EAGAIN}
_NOT_SUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


class FolderLock:
    """The lock of one folder, held from construction until `release` or the end of the process.

    Arguments:
        folder: A writer makes it where it is missing. The lock is the file `.lock` in it, or the marker
            `.lock.held`.
        shared: True for a reader. A reader creates nothing, and reads on where there is no lock file or it
            may not be opened, so that runs on read-only disks can be read.

    Raises:
        RunFolderError: The folder is in use, by this process or another, or cannot be written.
    """

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        self.folder, self.path, self.marker = folder, folder / ".lock", folder / ".lock.held"
        self._descriptor: int | None = None
        self._owns_marker = False
        self._made: list[Path] = []
        try:
            with writing(folder):
                if not shared:
                    self._make_folder()
                if not HAS_FLOCK or not self._take_flock(shared=shared):
                    self._take_marker(shared=shared)
        except BaseException:
            self.release(untouched=True)
            raise

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self, *, untouched: bool = False) -> None:
        """Let others in; a second call does nothing.

        Arguments:
            untouched: True when nothing came of it: the lock file and folders that it made are removed.
        """
        made, self._made = (self._made if untouched else []), []
        if self.path in made:  # before it is unlocked, while nobody else can hold it
            with suppress(OSError):
                self.path.unlink()
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            flock(descriptor, LOCK_UN)  # said aloud, since a forked child may hold the descriptor open
            os.close(descriptor)
        if self._owns_marker:
            self._owns_marker = False
            with suppress(OSError):
                self.marker.unlink()
        with suppress(OSError):  # a folder into which something was put meanwhile stays
            for folder in reversed([entry for entry in made if entry != self.path]):
                folder.rmdir()

    def _make_folder(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise RunFolderError(f"{shown(self.folder)}: expected a folder, got a file; choose another name")
        missing = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            self._made.append(folder)

    def _take_flock(self, *, shared: bool) -> bool:
        """Take the lock, or find that a reader needs none; False where the file system knows no locks."""
        while True:
            is_new = not self.path.exists()
            try:
                # without waiting: where a pipe lies in the lock's place, nobody may ever write to it
                mode = (os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT) | getattr(os, "O_NONBLOCK", 0)
                descriptor = os.open(self.path, mode, 0o666)
            except (FileNotFoundError, PermissionError):
                if shared:
                    return True
                raise
            try:
                flock(descriptor, (LOCK_SH if shared else LOCK_EX) | LOCK_NB)
                if _is_at(descriptor, self.path):
                    self._descriptor = descriptor
                    self._made += [self.path] if is_new else []
                    if not shared:
                        os.ftruncate(descriptor, 0)
                        write_all(descriptor, f"{os.getpid()}\n".encode())
                    return True
            except OSError as error:
                if error.errno in _HELD:
                    raise self._locked(_writer_that_holds(descriptor)) from None
                if error.errno in _NOT_SUPPORTED:
                    self._made += [self.path] if is_new else []
                    return False
                raise
            finally:
                if self._descriptor != descriptor:
                    os.close(descriptor)

    def _take_marker(self, *, shared: bool) -> None:
        remedy = f", or, if it was killed, delete {shown(self.marker)}"
        try:
            if not shared:
                descriptor = os.open(self.marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                self._owns_marker = True
                os.close(descriptor)
            elif self.marker.exists():
                raise self._locked(None, remedy)
        except FileExistsError:
            raise self._locked(None, remedy) from None

    def _locked(self, process: int | None, remedy: str = ", or choose another folder") -> RunFolderError:
        who = "another process" if process is None else f"process {process}"
        return RunFolderError(f"{shown(self.folder)}: locked, {who} is using it; wait until it ends{remedy}")


def _is_at(descriptor: int, path: Path) -> bool:
    """False when the last holder removed the file between our opening and our locking it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _writer_that_holds(descriptor: int) -> int | None:
    """The process that wrote its number into the lock file; None where readers hold it."""
    try:
        flock(descriptor, LOCK_SH | LOCK_NB)
    except OSError:
        number = os.pread(descriptor, 20, 0).strip()
        return int(number) if number.isdigit() else None
    return None

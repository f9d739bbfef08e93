"""Files that are whole or absent: a write is seen in full or not at all, whenever the process is killed.

    write(file) = write(temporary file beside it) ; fsync ; rename onto file ; fsync(folder)

Source: POSIX.1-2017, rename(): the name refers to the old or to the new file throughout the renaming.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from unicodedata import category

from jkoflow.errors import InputError, JKOFlowError, RunFolderError
from jkoflow.storage.leftovers import remove_leftovers, temporary_name

__all__ = [
    "O_BINARY",
    "RESTORE",
    "already_there",
    "open_regular",
    "read_bytes",
    "read_error",
    "shown",
    "staged_file",
    "sync_file",
    "sync_folder",
    "validate_new_output",
    "visible",
    "write_all",
    "write_bytes_atomic",
    "write_error",
    "writing",
]

RESTORE = "restore it from a copy, or create it again"
"""The remedy for a file that cannot be used, where the caller knows no better one."""

MOST_BYTES = 2**26
"""Largest file that is read into memory whole, 64 MB, where the reader knows no better limit."""

O_BINARY: int = getattr(os, "O_BINARY", 0)
"""Without it Windows writes other line ends than it was given."""

_NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_NO_RIGHT = {errno.EACCES, errno.EPERM, errno.EROFS}
_NOT_SUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES}


def shown(path: str | os.PathLike[str]) -> str:
    """Return the path as it can stand in a one-line message, line breaks and undecodable bytes escaped."""
    text = os.fspath(path)
    return text if text.isprintable() else ascii(text)


def visible(text: str) -> str:
    """Return text in which nothing acts: control characters and marks that turn or hide text are escaped.

    Spaces of every kind stay. Source: Unicode Technical Report 36, section 2.5, for the marks.
    """
    if text.isprintable():
        return text
    kept = (character.isprintable() or category(character) == "Zs" for character in text)
    pairs = zip(text, kept, strict=True)
    return "".join(c if is_kept else c.encode("unicode_escape").decode() for c, is_kept in pairs)


def write_error(path: str | os.PathLike[str], error: OSError) -> RunFolderError:
    """Return the one-line error for a write to `path` that the system refused with `error`."""
    name = shown(path)
    if error.errno in _NO_SPACE:
        remedy = "free some space and run it again (a fit continues with --resume)"
        return RunFolderError(f"{name}: no space left on device; {remedy}")
    if error.errno in _NO_RIGHT:
        remedy = "change its permissions or choose another place"
        return RunFolderError(f"{name}: cannot be written, permission denied; {remedy}")
    return RunFolderError(f"{name}: cannot be written ({_reason(error)}); check the path and the disk")


def read_error(
    path: str | os.PathLike[str], error: OSError | str, *, remedy: str = RESTORE
) -> RunFolderError:
    """Return the one-line error for a file that cannot be read, or, given a reason in words, is damaged."""
    name = shown(path)
    if isinstance(error, str):
        return RunFolderError(f"{name}: damaged or half-written ({error}); {remedy}")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return RunFolderError(f"{name}: missing; {remedy}")
    return RunFolderError(f"{name}: cannot be read ({_reason(error)}); {remedy}")


@contextmanager
def reading_entries(path: str | os.PathLike[str], *, remedy: str = RESTORE) -> Iterator[None]:
    """Turn what goes wrong with the entries of a record, in the block, into the error for a damaged file.

    Arguments:
        path: The file that the record came from.
        remedy: What the message tells the user to do.
    """
    try:
        yield
    except ValueError as error:
        raise read_error(path, str(error), remedy=remedy) from None
    except (KeyError, TypeError, AttributeError, OverflowError):
        damage = "an entry is missing, or of another kind than it has to be"
        raise read_error(path, damage, remedy=remedy) from None


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an OSError of the block into the one-line error for a write to `path`."""
    try:
        yield
    except JKOFlowError:
        raise
    except OSError as error:
        raise write_error(path, error) from error


def already_there(path: str | os.PathLike[str]) -> RunFolderError:
    """Return the one-line error for an output that exists and was not to be replaced."""
    return RunFolderError(
        f"{shown(path)}: already there; choose another name, or pass --overwrite to replace it"
    )


def validate_new_output(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Check, before any work is done for it, that a file can be written at `path`; nothing is changed.

    Symbolic links are followed, so that writing replaces what a link points to and not the link.

    Returns:
        The path with symbolic links resolved.

    Raises:
        InputError: The path is a folder, a device or a pipe, or its folder does not exist.
        RunFolderError: The file is already there and `overwrite` is False, or the folder is not writable.
    """
    target = Path(os.path.realpath(path))
    with writing(path):
        mode = target.stat().st_mode if os.path.lexists(target) else None
        has_folder = target.parent.is_dir()
    if mode is not None and not stat.S_ISREG(mode):
        raise InputError(f"{shown(path)}: expected a file to write, got {_kind(mode)}; name a regular file")
    if mode is not None and not overwrite:
        raise already_there(path)
    if not has_folder:
        raise InputError(f"{shown(path)}: its folder does not exist; create {shown(target.parent)} first")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise write_error(path, PermissionError(errno.EACCES, "permission denied"))
    return target


@contextmanager
def staged_file(path: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a name beside `path`, of the same suffix, to write to; when the block ends the file is at `path`.

    If the block raises, `path` is as it was and the temporary file is gone. An existing file passes its
    permissions on; with `overwrite=False` one that appeared in the meantime is left alone too. What killed
    processes left half-written in the folder is deleted.

    Raises:
        InputError: As `validate_new_output`.
        RunFolderError: As `validate_new_output`, and for any OSError of the block, which is expected to do
            nothing but write: no space left on device, permission denied.
    """
    target = validate_new_output(path, overwrite=overwrite)
    remove_leftovers(target.parent)
    staged = temporary_name(target)
    try:
        with writing(path):
            yield staged
            sync_file(staged)
            if overwrite:
                with suppress(FileNotFoundError):
                    os.chmod(staged, stat.S_IMODE(target.stat().st_mode))
                os.replace(staged, target)
            else:
                _publish_new(staged, target)
            sync_folder(target.parent)
    finally:
        with suppress(OSError):
            os.unlink(staged)


def write_bytes_atomic(path: str | os.PathLike[str], data: bytes, *, overwrite: bool = True) -> None:
    """Write `data` so that `path` holds all of it or what it held before; errors as `staged_file`."""
    with staged_file(path, overwrite=overwrite) as staged:
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | O_BINARY, 0o666)
        try:
            write_all(descriptor, data)
        finally:
            os.close(descriptor)


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file to read its bytes, if it is a regular one: a pipe or a device could give bytes for ever.

    Raises:
        OSError: It is missing, cannot be opened, or is a folder, a device or a pipe.
    """
    # looked at before it is opened, since to open a pipe is to wait for its writer
    _require_regular(os.stat(path).st_mode)
    descriptor = os.open(path, os.O_RDONLY | O_BINARY | getattr(os, "O_NONBLOCK", 0))
    try:
        _require_regular(os.fstat(descriptor).st_mode)
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: str | os.PathLike[str], *, remedy: str = RESTORE, most: int = MOST_BYTES) -> bytes:
    """Read a whole file.

    Arguments:
        path: The file.
        remedy: What the user can do when it cannot be read; ends the message.
        most: Bytes beyond which it cannot be a file of this kind, and is not read.

    Raises:
        RunFolderError: It is missing, no regular file, larger than `most`, or cannot be read.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise read_error(path, f"expected at most {most:,} bytes, got {size:,}", remedy=remedy)
            return file.read(size)
    except RunFolderError:
        raise
    except OSError as error:
        raise read_error(path, error, remedy=remedy) from error


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`: one call to the system may take only a part of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_file(path: Path) -> None:
    """Wait until what was written to the file is on the disk."""
    descriptor = os.open(path, os.O_RDWR | O_BINARY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a loss of power, where the system can do that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in _NOT_SUPPORTED:  # Windows cannot open a folder
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
    finally:
        os.close(descriptor)


def _publish_new(staged: Path, target: Path) -> None:
    try:
        os.link(staged, target)
    except FileExistsError:
        raise already_there(target) from None
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
        # no hard links here, and no other call creates a name only if it is free
        if os.path.lexists(target):
            raise already_there(target) from None
        os.replace(staged, target)


def _require_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"expected a regular file, got {_kind(mode)}")


def _kind(mode: int) -> str:
    return "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"


def _reason(error: OSError) -> str:
    return " ".join((error.strerror or str(error)).split())

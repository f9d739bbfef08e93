"""Files on a disk that may be full, shared, or cut off at any time: whole or absent, strict, without pickle.

    write(file) = write(temporary file beside it) ; fsync ; rename onto file ; fsync(folder)

Source: POSIX.1-2017, rename(); RFC 8259 (JSON); the safetensors format, version 0.4.
"""

from __future__ import annotations

from jkoflow.storage.files import (
    RESTORE,
    already_there,
    open_regular,
    read_bytes,
    read_error,
    reading_entries,
    shown,
    staged_file,
    sync_folder,
    validate_new_output,
    visible,
    write_bytes_atomic,
    write_error,
    writing,
)
from jkoflow.storage.folders import recover_folder, staged_folder
from jkoflow.storage.leftovers import remove_leftovers
from jkoflow.storage.lock import FolderLock
from jkoflow.storage.records import (
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

__all__ = [
    "FORMAT",
    "RESTORE",
    "FolderLock",
    "already_there",
    "append_jsonl",
    "encode_json",
    "open_regular",
    "read_bytes",
    "read_error",
    "read_json",
    "read_jsonl",
    "reading_entries",
    "recover_folder",
    "remove_leftovers",
    "require_format",
    "shown",
    "staged_file",
    "staged_folder",
    "sync_folder",
    "to_json",
    "validate_new_output",
    "visible",
    "write_bytes_atomic",
    "write_error",
    "write_json_atomic",
    "write_jsonl_atomic",
    "writing",
]

"""The run folder: what a fit leaves on the disk, whole at every moment, and where the next one goes on.

    open → start | resume → (append_record · write_checkpoint)* → finish

`run.json` is written first and holds `status`: running, then finished, interrupted or failed; a run that says
running while nobody holds its lock was killed, and counts as interrupted. `replacement` tells when a run that
is being overwritten goes. Source: ours; `jkoflow fit --help`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Literal, get_args

from torch import Tensor

from jkoflow.errors import InputError, JKOFlowError, RunFolderError
from jkoflow.runs import checkpoints, replacement
from jkoflow.runs.entries import read_run, read_steps
from jkoflow.runs.environment import environment, environment_changes
from jkoflow.runs.opening import AGAIN, Mode, require_inputs_stay, require_mode_fits
from jkoflow.storage import (
    FolderLock,
    append_jsonl,
    read_json,
    recover_folder,
    shown,
    to_json,
    write_json_atomic,
    write_jsonl_atomic,
    writing,
)

__all__ = ["RunFolder", "Status"]

Status = Literal["running", "finished", "interrupted", "failed"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_OWN_KEYS = ("format", "status", "results", "error")


class RunFolder:
    """One run on the disk, locked from `open` to `close`; a context manager.

    A writer (`"new"`, `"resume"`, `"overwrite"`) has changed nothing that counts until it calls `start` or
    `resume`: input that is refused before leaves the disk as it was. Left by an exception the run is marked
    interrupted (Ctrl-C) or failed; a run that was to overwrite another and failed before its first checkpoint
    is deleted and the other moved back.

    Attributes:
        path: The folder as the user named it.
        content: Where its files are: `path`, or, for a reader, the kept old run as long as the new one that
            overwrites it has no checkpoint.
        is_new: True when there is no run to go on with: call `start`.
    """

    def __init__(self, path: Path, content: Path, mode: Mode, lock: FolderLock) -> None:
        self.path, self.content, self.mode = path, content, mode
        self._lock = lock
        self._is_active = False
        self._blocks = 0
        has_run = (content / "run.json").exists()
        self.is_new = mode == "overwrite" or not has_run
        self._record = read_run(content / "run.json") if not self.is_new else {}

    # ── opening and closing ──────────────────────────────────────────────────────────────────────────────

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], mode: Mode, *, inputs: Sequence[str | os.PathLike[str]] = ()
    ) -> RunFolder:
        """Open and lock a run folder.

        Arguments:
            path: The folder; a writer makes it, and those above it, where it is missing.
            mode: `"new"` wants a missing or empty folder; `"resume"` that or a run; `"overwrite"` that or a
                run that is to be replaced; `"read"` a run, which others may read at the same time.
            inputs: Files that the run reads, such as the table; refused where overwriting would delete them.

        Raises:
            InputError: An unknown mode, or one of the inputs belongs to the run to be overwritten.
            RunFolderError: The folder is missing, damaged, locked, already holds a run, holds other files, or
                cannot be written.
        """
        if mode not in get_args(Mode):
            raise InputError(f"mode: expected one of {', '.join(get_args(Mode))}, got {mode!r}")
        folder = Path(path)
        return cls._open_to_read(folder) if mode == "read" else cls._open_to_write(folder, mode, inputs)

    @classmethod
    def _open_to_read(cls, folder: Path) -> RunFolder:
        if not folder.is_dir():
            raise RunFolderError(f"{shown(folder)}: no such run folder; jkoflow fit TABLE -o RUN makes one")
        if replacement.needs_recovery(folder):
            with suppress(RunFolderError), writing(folder), FolderLock(folder):
                replacement.recover(folder)
        lock = FolderLock(folder, shared=True)
        try:
            content = replacement.content_folder(folder)
            if not (content / "run.json").exists():
                raise RunFolderError(f"{shown(folder)}: holds no run, run.json is missing; {AGAIN}")
            return cls(folder, content, "read", lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _open_to_write(cls, folder: Path, mode: Mode, inputs: Sequence[str | os.PathLike[str]]) -> RunFolder:
        lock = FolderLock(folder)
        try:
            with writing(folder):
                replacement.recover(folder)
                recover_folder(folder / "model")
                require_mode_fits(folder, mode)
            if mode == "overwrite":
                require_inputs_stay(folder, inputs)
            return cls(folder, folder, mode, lock)
        except BaseException:
            lock.release(untouched=True)
            raise

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._is_active:
                self._stop(error)
        except (JKOFlowError, OSError):
            if error is None:
                raise
            # on a full disk the first error is the one to tell
        finally:
            self._lock.release(untouched=self.is_new)

    def close(self) -> None:
        """Unlock; a run that is not finished counts as interrupted. A second call does nothing."""
        self.__exit__(None, None, None)

    def _stop(self, error: BaseException | None) -> None:
        self._is_active = False
        failed = isinstance(error, Exception)
        if failed and self._blocks == 0 and replacement.has_previous(self.path):
            self._take_back()
            return
        self._write(status="failed" if failed else "interrupted", error=_one_line(error) if failed else None)

    # ── the life of a run ────────────────────────────────────────────────────────────────────────────────

    def start(self, description: Mapping[str, Any]) -> None:
        """Begin a run; what it overwrites is moved aside first.

        Arguments:
            description: What goes into `run.json`: settings, seed, the table's path and SHA-256, the split.
        """
        if not self.is_new:
            raise RuntimeError("there is a run to resume")
        with writing(self.path):
            self._make_room()
            try:
                self._record = {key: value for key, value in description.items() if key not in _OWN_KEYS}
                self._write(status="running")
                write_json_atomic(self.path / "environment.json", environment())
            except BaseException:
                self._take_back()
                raise
        self.is_new, self._is_active, self._blocks = False, True, 0

    def resume(self) -> None:
        """Go on with a run that has not finished, after its last whole checkpoint.

        What is half-written goes, and so do the `step` records of blocks without a checkpoint, which are
        trained again; `decision` records stay, since they have to be replayed.
        """
        if self.is_new or self.mode == "read":
            raise RuntimeError("there is no run to resume")
        self._blocks = checkpoints.checkpointed_blocks(self._checkpoints)
        records = self.read_records()
        kept = [record for record in records if not _is_step_after(record, self._blocks)]
        with writing(self.path):
            checkpoints.drop_half_written(self._checkpoints)
            if len(kept) < len(records):
                write_jsonl_atomic(self.path / "steps.jsonl", kept)
            if not (self.path / "environment.json").exists():
                write_json_atomic(self.path / "environment.json", environment())
            self._write(status="running")
        self._is_active = True

    def finish(self, results: Mapping[str, Any] | None = None) -> None:
        """Mark the run finished, once its model is on the disk; `results` go into `run.json`."""
        self._require_active()
        self._write(status="finished", results=dict(results) if results is not None else None)
        self._is_active = False
        with writing(self.path):
            replacement.discard_previous(self.path)

    @property
    def status(self) -> Status | None:
        """What `run.json` says, a killed run being interrupted; None before `start`."""
        status: Status | None = self._record.get("status")
        return "interrupted" if status == "running" and not self._is_active else status

    @property
    def description(self) -> dict[str, Any]:
        """What `start` was given, as JSON gives it back."""
        return {key: value for key, value in self._record.items() if key not in _OWN_KEYS}

    @property
    def results(self) -> dict[str, Any]:
        """What `finish` was given."""
        return dict(self._record.get("results") or {})

    @property
    def model(self) -> Path:
        """The folder of the deployable model."""
        return self.content / "model"

    def require_finished(self) -> None:
        """Refuse, as a RunFolderError, a run that has no model to use yet."""
        if self.status != "finished":
            blocks = checkpoints.checkpointed_blocks(self._checkpoints)
            raise RunFolderError(
                f"{shown(self.path)}: the run has not finished, it is {self.status} after {blocks} block(s); "
                "continue it with jkoflow fit TABLE -o RUN --resume"
            )

    def require_same(self, description: Mapping[str, Any], *, added: Mapping[str, Any] = _NOTHING) -> None:
        """Refuse, as an InputError, to resume with a table, seed or setting other than the run's.

        Arguments:
            description: The entries that have to be the same, at any depth; others are not looked at.
            added: Settings that a run of an earlier version need not have, with what its fit did.
        """
        recorded = {**self.description, "settings": {**added, **self.description.get("settings", {})}}
        for name, expected, found in _differences(recorded, to_json(description)):
            raise InputError(
                f"{shown(self.path)}: --resume needs what the run began with: expected {name} {expected!r}, "
                f"got {found!r}; give that, or start again with --overwrite"
            )

    def environment_changes(self) -> tuple[str, ...]:
        """Return what differs here from where the run began; where nothing does, resuming changes no bit."""
        file = self.content / "environment.json"
        return environment_changes(read_json(file, remedy=AGAIN), environment()) if file.exists() else ()

    # ── records and checkpoints ──────────────────────────────────────────────────────────────────────────

    def append_record(self, record: Mapping[str, Any]) -> None:
        """Append one record to `steps.jsonl`; it is on the disk when this returns."""
        self._require_active()
        append_jsonl(self.path / "steps.jsonl", record)

    def read_records(self) -> list[dict[str, Any]]:
        """Read the records of `steps.jsonl` in order."""
        return read_steps(self.content / "steps.jsonl")

    def write_checkpoint(
        self,
        block: int,
        tensors: Mapping[str, Tensor],
        meta: Mapping[str, Any],
        *,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        """Store block number `block`, counted from 1, which has to be the next one.

        Arguments:
            block: Its number.
            tensors: What it learned.
            meta: What else the fit needs to go on, in the types of JSON; NaN and infinities become None.
            record: Its line for `steps.jsonl`, written first, so that a checkpoint always has its line.
        """
        self._require_active()
        if block != self._blocks + 1:
            raise ValueError(f"block: expected {self._blocks + 1}, got {block}")
        if record is not None:
            self.append_record(record)
        checkpoints.write_checkpoint(self._checkpoints, block, tensors, meta)
        self._blocks = block
        with writing(self.path):
            replacement.discard_previous(self.path)

    def read_checkpoints(self) -> list[tuple[dict[str, Tensor], dict[str, Any]]]:
        """Read tensors and meta of blocks 1 to n; what is half-written does not count.

        Raises:
            RunFolderError: One of them is missing or damaged.
        """
        blocks = checkpoints.checkpointed_blocks(self._checkpoints)
        return [checkpoints.read_checkpoint(self._checkpoints, block) for block in range(1, blocks + 1)]

    def drop_checkpoints(self, *, after: int) -> None:
        """Delete the checkpoints of all blocks later than `after`, as when the step sizes are chosen anew."""
        self._require_active()
        with writing(self._checkpoints):
            checkpoints.drop_checkpoints(self._checkpoints, after=after)
        self._blocks = min(self._blocks, after)

    @property
    def _checkpoints(self) -> Path:
        return self.content / "checkpoints"

    def _require_active(self) -> None:
        if not self._is_active:
            raise RuntimeError("start or resume the run first")

    def _make_room(self) -> None:
        if not replacement.run_entries(self.path):
            return
        try:
            replacement.set_aside(self.path)
        except BaseException:
            replacement.recover(self.path)
            raise

    def _take_back(self) -> None:
        with suppress(OSError):  # the error that brought us here is the one to tell
            if replacement.has_previous(self.path):
                replacement.restore_previous(self.path)
            else:
                replacement.discard_run(self.path)

    def _write(self, *, status: Status, **entries: Any) -> None:
        kept = {key: value for key, value in entries.items() if value is not None}
        record = to_json({"status": status, **self.description, **kept})
        write_json_atomic(self.path / "run.json", record)
        self._record = record


def _differences(expected: Any, found: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(expected, dict) and isinstance(found, dict):
        pairs = [(f"{name}.{key}".lstrip("."), expected.get(key), value) for key, value in found.items()]
        return [difference for key, old, new in pairs for difference in _differences(old, new, key)]
    return [] if expected == found else [(name, expected, found)]


def _is_step_after(record: Mapping[str, Any], blocks: int) -> bool:
    block = record.get("block")
    return record.get("kind") == "step" and isinstance(block, int) and block > blocks


def _one_line(error: BaseException | None) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())

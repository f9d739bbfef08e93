"""What a run folder keeps of a fit while it goes: decisions and steps, each stored before the next begins.

    step -> a line of steps.jsonl, then a checkpoint;    resumed run -> the journal of before

Source: ours; `jkoflow fit --help` lists the files of a run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from jkoflow.blocks import block_from_config
from jkoflow.config import ADDED, Settings
from jkoflow.errors import InputError, NumericalError, RunFolderError
from jkoflow.fitting.split import recognise_by
from jkoflow.journal import Journal, Stopwatch, Taken
from jkoflow.runs import RunFolder
from jkoflow.steps import State
from jkoflow.storage.entries import brief, checked_whole
from jkoflow.storage.tensors import packed_tensors, unpacked_tensors
from jkoflow.world import World

__all__ = ["Progress", "Recorder", "Timed", "open_journal"]

Stored = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors and entries of a checkpoint."""

Progress = Callable[[dict[str, Any]], None]
"""Called with a record of kind `start` before the first step, then with each step's."""


class Recorder:
    """Tells of every step, and stores the new ones.

    Arguments:
        log_jacobian: That of the columns' map, its mean over the validation rows, nats, for the NLL in the
            table's units.
        run: An open run folder, or None for memory only.
        progress: See `Progress`.
        spent: CPU-seconds that the interrupted fit had used.
        world: The processes of the fit; the first of them has the run folder.
    """

    def __init__(
        self, log_jacobian: float, run: RunFolder | None, progress: Progress, *, spent: float, world: World
    ) -> None:
        self._log_jacobian, self._run, self._progress, self._world = log_jacobian, run, progress, world
        self.stopwatch = Stopwatch(spent)
        self.steps: list[dict[str, Any]] = []
        """The lines of `steps.jsonl` so far."""

    def __call__(self, state: State, taken: Taken, *, replayed: bool) -> None:
        """Tell of a step with the state after it.

        Raises:
            NumericalError: Another process found another block.
        """
        _require_same_everywhere(taken, self._world)
        record = self._record(state, taken)
        self.steps.append(record)
        if self._run is not None and not replayed:
            meta = {"info": record, "config": _config(taken)}
            self._run.write_checkpoint(len(self.steps), _tensors(taken), meta, record=record)
        self._progress(record)

    def _record(self, state: State, taken: Taken) -> dict[str, Any]:
        config = _config(taken)
        return {
            "kind": "step",
            **taken.log,
            **self.stopwatch.lap(),
            "held_out_nll_data_nats": state.nll - self._log_jacobian,
            "block_type": None if config is None else config["kind"],
            "flow_blocks": len(state.flow),
            "integration_steps": None if config is None else config.get("steps"),
        }


@dataclass(frozen=True)
class Timed:
    """What a budget has to hold beside the steps.

    Arguments:
        begun: Tells how long this process has worked on the fit.
        rehearse: Tells of what follows the last step; see `Journal`.
    """

    begun: Stopwatch
    rehearse: Callable[[State], float]


def open_journal(
    run: RunFolder | None,
    description: dict[str, Any],
    settings: Settings,
    log_jacobian: float,
    progress: Progress,
    world: World,
    timed: Timed,
) -> tuple[Journal, Recorder, int]:
    """Start or resume the run folder: the journal, what stores its steps, and how many steps are on record.

    Arguments:
        run: An open run folder, or None for memory only.
        description: What the run is recognised by.
        settings: The options.
        log_jacobian: See `Recorder`.
        progress: See `Progress`.
        world: The processes of the fit.
        timed: What comes before and after the steps.

    Raises:
        InputError: The run began with another table, seed or setting.
        RunFolderError: It cannot be written.
    """
    stored, decided, fault = list[Stored](), list[dict[str, Any]](), None
    try:
        if run is not None and run.is_new:
            run.start(description)
        elif run is not None:
            run.require_same(recognise_by(description), added=ADDED)
            run.resume()
            stored = run.read_checkpoints()
            decided = [record for record in run.read_records() if record.get("kind") == "decision"]
    except (InputError, RunFolderError) as error:
        fault = error
    world.agree(fault)
    steps = [_restored(tensors, meta) for tensors, meta in _in_each_process(stored, world)]
    decided = world.broadcast(decided)
    spent = float(steps[-1].log.get("cpu_seconds_so_far") or 0.0) if steps else 0.0
    spent += timed.begun.seconds()
    recorder = Recorder(log_jacobian, run, progress, spent=spent, world=world)
    journal = Journal(
        budget=settings.budget,
        decisions=decided,
        steps=steps,
        spent=spent,
        write=(lambda record: None) if run is None else run.append_record,
        observe=recorder,
        rehearse=timed.rehearse,
        world=world,
    )
    return journal, recorder, len(steps)


def _in_each_process(stored: list[Stored], world: World) -> list[Stored]:
    """The checkpoints that the first process has read."""
    metas = world.broadcast([meta for _, meta in stored])
    if world.size == 1:
        return stored
    packed = [packed_tensors(tensors) for tensors, _ in stored] or [b""] * len(metas)
    return [
        (unpacked_tensors(world.broadcast_bytes(data)), meta)
        for data, meta in zip(packed, metas, strict=True)
    ]


def _require_same_everywhere(taken: Taken, world: World) -> None:
    """Refuse, as a NumericalError, a block that is not the first process's, bit for bit."""
    if world.size == 1:
        return
    found = hashlib.sha256(packed_tensors(_tensors(taken))).hexdigest()
    if world.largest(float(found != world.broadcast(found))):
        raise NumericalError(
            "the processes do not find the same numbers",
            block=taken.number,
            remedy="start all of them on machines of one kind, with the same versions of all packages",
        )


def _restored(tensors: dict[str, Tensor], meta: dict[str, Any]) -> Taken:
    """A step from its checkpoint.

    Raises:
        RunFolderError: Its entries or tensors are not those of a step.
    """
    try:
        info = meta["info"]
        if not isinstance(info, dict):
            raise ValueError(f"info: expected a table, got {brief(info)}")
        number, round_number = checked_whole(info, "block"), checked_whole(info, "round", least=-1)
        if meta["config"] is None:
            return Taken(number, round_number, None, info)
        block = block_from_config(meta["config"], found={name: tuple(t.shape) for name, t in tensors.items()})
        some = next(value for value in tensors.values() if value.is_floating_point())
        block = block.to(dtype=some.dtype)
        block.load_state_dict(tensors)
        block.check_numbers()
    except (ValueError, KeyError, RuntimeError, StopIteration) as failure:
        raise RunFolderError(
            f"checkpoints: a block is damaged ({failure}); delete it and all later ones there, or train"
            " again with --overwrite"
        ) from None
    return Taken(number, round_number, block, info)


def _config(taken: Taken) -> dict[str, Any] | None:
    return None if taken.block is None else taken.block.to_config()


def _tensors(taken: Taken) -> dict[str, Tensor]:
    return {} if taken.block is None else dict(taken.block.state_dict())

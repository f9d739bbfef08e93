"""`jkoflow fit`: a table in, a run folder out; interrupted at any moment, it goes on to the same model.

    fit(table, seed) = fit(table, seed) interrupted and resumed, bit for bit on the same machine

Source: ours; `jkoflow --help`.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jkoflow.cli.processes import processes
from jkoflow.cli.progress import Progress
from jkoflow.cli.summary import summary_lines
from jkoflow.cli.terminal import say
from jkoflow.config import ADDED, Settings
from jkoflow.data import Table, Weights, checked_weight, counted_rows, read_shared_table
from jkoflow.errors import InputError, RunFolderError
from jkoflow.fitting import (
    Fitted,
    check_options,
    describe,
    described_weights,
    fit_table,
    recognise_by,
    split_of_run,
)
from jkoflow.model import load_model
from jkoflow.runs import Mode, RunFolder
from jkoflow.runs.entries import require_entries
from jkoflow.storage import shown
from jkoflow.world import World

__all__ = ["run", "shell_defaults"]


def shell_defaults(*, holdout_fraction: float = 0.1) -> dict[str, Any]:
    """Where a fit from the shell differs from `Settings`: a tenth of the rows is held out to judge it."""
    return {"holdout_fraction": holdout_fraction}


def run(options: argparse.Namespace) -> None:
    """Fit, or go on with a fit."""
    check_options(_settings(options, {}))  # a wrong option is told before a large table is read
    progress = Progress()
    try:
        with processes() as world:
            fitted = _fit(options, progress, world)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_how_to_go_on(options, progress)) from None
    if fitted is None:
        say(f"{shown(options.output)}: the run is finished; --overwrite trains it again")
        return
    for line in summary_lines(fitted.results, Path(options.output)):
        say(line)
    has_context = fitted.model.context_schema is not None
    arguments = "" if has_context else " -n 1000 -o new_rows.csv"
    say(f"next: jkoflow {'report' if has_context else 'sample'} {shlex.quote(options.output)}{arguments}")


def _fit(options: argparse.Namespace, progress: Progress, world: World) -> Fitted | None:
    """What was fitted; None where the run was finished before."""
    full = read_shared_table(options.table, world)
    with _opened(options, world) as folder:
        before = _known_of(folder, world)
        recorded = before.description
        settings = _settings(options, recorded)
        weights = _weight_column(options, recorded)
        table, context, weight = _split_columns(full, _context_columns(options, recorded), weights)
        if before.is_finished:
            split = split_of_run(table, settings, recorded, context, weight)
            description = describe(table, context, settings, split, described_weights(weight, weights))
            _require_finished(folder, description, world)
            return None
        progress.header = [
            f"{table.label}: {len(full):,} rows, {full.dim:,} columns{_given(context)}",
            *(
                f"note: {change} since the run began, so the last bits may differ"
                for change in before.changes
            ),
        ]
        return fit_table(
            table,
            context=context,
            weight=weight,
            weight_column=weights,
            settings=settings,
            run=folder,
            progress=progress,
            world=world,
        )


@dataclass(frozen=True)
class _Known:
    """What the run folder tells all processes before the fit.

    Arguments:
        description: What the run began with; nothing where it is new.
        is_finished: Whether it has finished.
        changes: What differs here from where it began.
    """

    description: dict[str, Any]
    is_finished: bool
    changes: list[str]


@contextmanager
def _opened(options: argparse.Namespace, world: World) -> Iterator[RunFolder | None]:
    """The run folder, which the first process opens for all; None in the others.

    Raises:
        RunFolderError, InputError: As `RunFolder.open`, in all processes.
    """
    mode: Mode = "resume" if options.resume else "overwrite" if options.overwrite else "new"
    inputs = [options.table, *([options.config] if options.config else [])]
    folder, fault = None, None
    try:
        folder = RunFolder.open(options.output, mode, inputs=inputs) if world.is_first else None
    except (InputError, RunFolderError) as error:
        fault = error
    with nullcontext() if folder is None else folder:
        world.agree(fault)
        yield folder


def _known_of(folder: RunFolder | None, world: World) -> _Known:
    """What the first process's folder tells.

    Raises:
        RunFolderError: Its record is damaged.
    """
    known, fault = _Known({}, is_finished=False, changes=[]), None
    try:
        if folder is not None and not folder.is_new:
            require_entries(folder, ("settings", "table", "context", "context.columns"))
            changes = list(folder.environment_changes())
            known = _Known(folder.description, folder.status == "finished", changes)
    except RunFolderError as error:
        fault = error
    world.agree(fault)
    return _Known(**world.broadcast(asdict(known)))


def _require_finished(folder: RunFolder | None, description: dict[str, Any], world: World) -> None:
    """Refuse, as a JKOFlowError, a finished run that began otherwise, or whose model is not to be had."""
    fault = None
    try:
        if folder is not None:
            folder.require_same(recognise_by(description), added=ADDED)
            _require_model(folder)
    except (InputError, RunFolderError) as error:
        fault = error
    world.agree(fault)


def _require_model(folder: RunFolder) -> None:
    """Refuse, as a RunFolderError, a finished run whose model is not there or cannot be read."""
    fault = "is missing"
    try:
        if (folder.model / "config.json").exists():
            load_model(folder.model)
            return
    except RunFolderError as error:
        fault = f"cannot be used ({error})"
    raise RunFolderError(
        f"{shown(folder.path)}: the run is finished, but its model {fault}; restore {shown(folder.model)} "
        "from a copy, or pass --overwrite to train again"
    )


def _settings(options: argparse.Namespace, recorded: Mapping[str, Any]) -> Settings:
    """What the flags say, over the settings file, over the run that is resumed, over the defaults."""
    flags = {name: getattr(options, name) for name in ("seed", "budget", "device")}
    given = {name: value for name, value in flags.items() if value is not None}
    if options.config is not None:
        return Settings.from_toml(Path(options.config), defaults=shell_defaults(), **given)
    return Settings.from_record({**shell_defaults(), **recorded.get("settings", {}), **given})


def _context_columns(options: argparse.Namespace, recorded: Mapping[str, Any]) -> list[str]:
    if options.context is None:
        return list((recorded.get("context") or {}).get("columns", []))
    names = [name.strip() for name in options.context.split(",")]
    if not all(names):
        raise InputError(f"--context: expected column names separated by commas, got {options.context!r}")
    return names


def _weight_column(options: argparse.Namespace, recorded: Mapping[str, Any]) -> str | None:
    name: str | None = options.weights or (recorded.get("weights") or {}).get("column")
    return name


def _split_columns(
    full: Table, context: list[str], weights: str | None
) -> tuple[Table, Table | None, Weights | None]:
    """The columns to learn and those to condition on, and the rows' weights; rows of weight 0 are left out.

    Both tables keep the hash of the file that they are from.
    """
    weight = None
    if weights is not None:
        if weights in context:
            raise InputError(f"--weights: {weights!r} is a column to condition on, it cannot be both")
        weight = checked_weight(full.select([weights]).values[:, 0], full, name=f"--weights {weights}")
    named = [*context, *([weights] if weights is not None else [])]
    rest = replace(full.drop(named), sha256=full.sha256) if named else full
    given = replace(full.select(context), sha256=full.sha256) if context else None
    return counted_rows(rest, given, weight)


def _given(context: Table | None) -> str:
    return "" if context is None else f", conditioned on {', '.join(context.columns)}"


def _how_to_go_on(options: argparse.Namespace, progress: Progress) -> str:
    if not progress.started:
        return "interrupted before the first block; nothing was written"
    command = f"jkoflow fit {shlex.quote(options.table)} -o {shlex.quote(options.output)} --resume"
    return f"interrupted after {progress.steps} block(s), which are kept; go on with {command}"

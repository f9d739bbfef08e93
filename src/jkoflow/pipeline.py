r"""From a table to a model: split, columns, smoothing, the fold, and what the run folder keeps of it.

    table -> rows -> p_0 -> (steps, each stored before the next begins) -> model

Rows that are exact copies of each other stay on the same side of the split, so that no held-out row was
trained on. Source: the data flow of Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, section 3.1; smoothing
is section 5.1.2.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from jkoflow.blocks import block_from_config
from jkoflow.budget import Decisions
from jkoflow.config import Settings
from jkoflow.data import Schema, Table
from jkoflow.data.distinct import group_rows
from jkoflow.errors import InputError
from jkoflow.fit import FitState, TakenStep
from jkoflow.flow import Flow
from jkoflow.flow.likelihood import log_prob, standard_error
from jkoflow.flow.sampling import sample
from jkoflow.laws import Gaussian, StandardNormal
from jkoflow.model import Model, encode_table, save_model
from jkoflow.particles import Particles
from jkoflow.particles.moments import Moments
from jkoflow.particles.smoothing import resolve_smoothing
from jkoflow.runs import RunFolder
from jkoflow.runtime import Runtime, one_thread, resolve_device, resolve_dtype
from jkoflow.schedule import check_gamma
from jkoflow.training import train_flow

__all__ = [
    "Fitted",
    "HeldOutRows",
    "Split",
    "describe",
    "encode_rows",
    "fit_table",
    "recognise_by",
    "split_rows",
]

Progress = Callable[[dict[str, Any]], None]
_ROUND_TRIP_ROWS = 256
_FITTED_ON_ALL = (
    "no block lowered the held-out NLL significantly below that of a Gaussian: the model is a Gaussian, "
    "fitted again on training and validation rows together"
)


@dataclass(frozen=True)
class Split:
    """Row numbers of the table: trained on, looked at by choices, looked at by nothing."""

    train: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]
    holdout: npt.NDArray[np.int64]

    def sizes(self) -> dict[str, int]:
        """Rows of each part."""
        return {"train": len(self.train), "validation": len(self.validation), "holdout": len(self.holdout)}


@dataclass(frozen=True)
class HeldOutRows:
    """Rows in standardised units as the fit saw its own: dequantised and smoothed with a named stream.

    Arguments:
        x: Shape `(n, d)`.
        context: Shape `(n, c)`, or None.
        unsmoothed: The same rows, of the same dequantisation, before they were smoothed; None where nothing
            was smoothed.
    """

    x: Tensor
    context: Tensor | None
    unsmoothed: Tensor | None = None


@dataclass(frozen=True)
class Fitted:
    """What a fit gives back.

    Arguments:
        model: The density.
        steps: One record for each step, as in `steps.jsonl`.
        results: The summary: held-out NLL beside a Gaussian's, round trip, CPU-seconds, notes.
        split: Which rows of the table did what.
    """

    model: Model
    steps: list[dict[str, Any]]
    results: dict[str, Any]
    split: Split


class _Stopwatch:
    """CPU-seconds of a fit, for the record only: no decision looks at it.

    Arguments:
        spent: CPU-seconds that the interrupted fit had used.
    """

    def __init__(self, spent: float) -> None:
        self._start = time.process_time() - spent
        self._last = spent

    def seconds(self) -> float:
        """CPU-seconds so far, those of the interrupted fit included."""
        return time.process_time() - self._start

    def lap(self) -> dict[str, float]:
        """CPU-seconds since the last lap, and so far."""
        before, self._last = self._last, self.seconds()
        return {"cpu_seconds": self._last - before, "cpu_seconds_so_far": self._last}


def split_rows(table: Table, settings: Settings) -> Split:
    """A seeded split in which exact copies of a row stay together."""
    group = group_rows(table.values)
    n_groups = int(group.max()) + 1
    generator = Runtime(settings.seed).stream("split")
    rank = torch.randperm(n_groups, generator=generator).numpy()[group]
    n_holdout = round(settings.holdout_fraction * n_groups)
    n_validation = max(1, round(settings.validation_fraction * n_groups))
    rows = np.argsort(rank, kind="stable")
    ordered = rank[rows]
    return Split(
        train=rows[ordered >= n_holdout + n_validation],
        validation=rows[(ordered >= n_holdout) & (ordered < n_holdout + n_validation)],
        holdout=rows[ordered < n_holdout],
    )


def describe(table: Table, context: Table | None, settings: Settings, split: Split) -> dict[str, Any]:
    """What `run.json` keeps to recognise the fit by: never the rows."""
    return {
        "settings": settings.to_dict(),
        "seed": settings.seed,
        "table": {
            "path": table.source,
            "sha256": table.sha256,
            "rows": len(table),
            "columns": list(table.columns),
        },
        "context": None if context is None else {"sha256": context.sha256, "columns": list(context.columns)},
        "split": {**split.sizes(), "rule": "seeded permutation of distinct rows; holdout, validation, train"},
    }


def recognise_by(description: dict[str, Any]) -> dict[str, Any]:
    """The part of `describe` that a resumed fit must share: all but the path, since a table may be moved."""
    table = {key: value for key, value in description["table"].items() if key != "path"}
    return {**description, "table": table}


def encode_rows(model: Model, table: Table, context: Table | None, *, stream: str, seed: int) -> HeldOutRows:
    """Rows as the fit saw its own, with dequantisation and smoothing noise from the named stream."""
    x = _positions(model, table, stream=stream, seed=seed)
    given = model.encode_context(context, len(table))
    if resolve_smoothing(model.facts.get("smoothing")) is None:
        return HeldOutRows(x, given)
    return HeldOutRows(x, given, _positions(model, table, stream=stream, seed=seed, smoothed=False))


def _positions(
    model: Model,
    table: Table,
    *,
    stream: str,
    seed: int,
    rows: npt.NDArray[np.int64] | None = None,
    smoothed: bool = True,
) -> Tensor:
    """The rows at these numbers, or all, dequantised and smoothed; the same noise each time it is called."""
    runtime = Runtime(seed)
    smoothing = resolve_smoothing(model.facts.get("smoothing")) if smoothed else None
    noise = runtime.stream("smoothing " + stream)
    return encode_table(
        model.schema,
        table,
        like=model.like,
        rows=rows,
        generator=runtime.stream("dequantisation " + stream),
        change=lambda z: z if smoothing is None else smoothing.perturb(z, noise),
    )


@one_thread()
def fit_table(
    table: Table,
    *,
    settings: Settings,
    context: Table | None = None,
    run: RunFolder | None = None,
    progress: Progress = lambda record: None,
) -> Fitted:
    """Fit a model to a table.

    Arguments:
        table: The rows.
        settings: The options.
        context: Columns to condition on, row by row; None for none.
        run: An open run folder to keep the fit in, new or to be resumed; None for memory only.
        progress: Called with a record of kind `start` before the first step, then with each step's.

    Raises:
        InputError: The table, the context or an option is refused.
        NumericalError: A block could not be trained.
        RunFolderError: The run folder cannot be written.
    """
    check_gamma(settings.gamma)
    smoothing = resolve_smoothing(settings.smoothing)
    device = resolve_device(settings.device)
    runtime = Runtime(settings.seed, device, resolve_dtype(settings.dtype))
    if context is not None and len(context) != len(table):
        raise InputError(f"context: expected {len(table)} rows, one for each row, got {len(context)}")
    split = split_rows(table, settings)
    schema, context_schema = _schemas(table, context, split)

    facts: dict[str, Any] = {"training_rows": len(split.train), "validation_rows": len(split.validation)}
    if smoothing is not None:
        raw = torch.empty(0, dtype=torch.float64)
        fixed = smoothing.resolve(encode_table(schema, table, like=raw, rows=split.train))
        facts["smoothing"] = {"kind": fixed.kind, "time": fixed.time}
    empty = _empty_model(schema, context_schema, settings, facts)
    parts = {
        name: _particles(empty, table, context, rows, name, settings.seed)
        for name, rows in vars(split).items()
        if len(rows)
    }

    taken, decisions = _begin(run, describe(table, context, settings, split), settings)
    progress({"kind": "start", "split": split.sizes(), "notes": list(schema.notes), "taken": len(taken)})
    flow = judged_flow = empty.flow
    steps, stopwatch = [], _Stopwatch(decisions.spent)
    for state, step in train_flow(
        parts["train"],
        parts["validation"],
        settings=settings,
        runtime=runtime,
        decisions=decisions,
        taken=taken,
    ):
        flow = state.flow
        judged_flow = flow if state.judged is None else state.judged
        record = _record(state, step, schema, stopwatch)
        steps.append(record)
        if run is not None and len(steps) > len(taken):
            run.write_checkpoint(
                len(steps), _tensors(step), {"info": record, "config": _config(step)}, record=record
            )
        progress(record)

    model = Model(schema, flow, settings, context_schema, facts)
    judged = model if "holdout" in parts else replace(model, flow=judged_flow)
    results = {
        **_held_out_results(judged, parts),
        "round_trip_error": _round_trip(model, context),
        "blocks": len(flow),
        "cpu_seconds": stopwatch.seconds(),
        "notes": [*schema.notes, *([] if judged_flow is flow else [_FITTED_ON_ALL])],
    }
    summary = {key: results[key] for key in ("held_out_nll_nats", "held_out_on", "held_out_rows")}
    model = Model(schema, flow, settings, context_schema, {**facts, **summary})
    if run is not None:
        save_model(model, run.model, overwrite=True)
        run.finish(results)
    return Fitted(model, steps, results, split)


def _schemas(table: Table, context: Table | None, split: Split) -> tuple[Schema, Schema | None]:
    """The columns of table and context, located and scaled by the rows that a fit may see."""
    seen = np.concatenate([split.train, split.validation])
    return (
        Schema.fit(table, rows=seen),
        None if context is None else Schema.fit(context, role="context", rows=seen),
    )


def _empty_model(
    schema: Schema, context_schema: Schema | None, settings: Settings, facts: dict[str, Any]
) -> Model:
    return Model(schema, Flow(StandardNormal(schema.dim)), settings, context_schema, facts)


def _particles(
    model: Model, table: Table, context: Table | None, rows: npt.NDArray[np.int64], name: str, seed: int
) -> Particles:
    x, given = _positions(model, table, rows=rows, stream=name, seed=seed), None
    if context is not None and model.context_schema is not None:
        given = encode_table(model.context_schema, context, like=model.like, rows=rows)
    return Particles(x, given)


def _begin(
    run: RunFolder | None, description: dict[str, Any], settings: Settings
) -> tuple[list[TakenStep], Decisions]:
    """Start or resume the run folder; what was done so far, and the log of decisions."""
    if run is None:
        return [], Decisions(settings.budget)
    if run.is_new:
        run.start(description)
        return [], Decisions(settings.budget, record=run.append_record)
    run.require_same(recognise_by(description))
    run.resume()
    taken = [_taken(tensors, meta) for tensors, meta in run.read_checkpoints()]
    decided = [record for record in run.read_records() if record.get("kind") == "decision"]
    spent = float(taken[-1].info.get("cpu_seconds_so_far") or 0.0) if taken else 0.0
    return taken, Decisions(settings.budget, recorded=decided, record=run.append_record, spent=spent)


def _taken(tensors: dict[str, Tensor], meta: dict[str, Any]) -> TakenStep:
    if meta["config"] is None:
        return TakenStep(None, meta["info"])
    block = block_from_config(meta["config"])
    some = next(value for value in tensors.values() if value.is_floating_point())
    block = block.to(dtype=some.dtype)
    block.load_state_dict(tensors)
    return TakenStep(block, meta["info"])


def _record(state: FitState, step: TakenStep, schema: Schema, stopwatch: _Stopwatch) -> dict[str, Any]:
    """The step's line of `steps.jsonl`."""
    info = {"kind": "step", **stopwatch.lap(), **step.info}
    info["held_out_nll_data_nats"] = state.nll - schema.log_jacobian
    config = _config(step)
    info["block_type"] = None if config is None else config["kind"]
    info["flow_blocks"] = len(state.flow)
    info["integration_steps"] = None if config is None else config.get("steps")
    return info


def _config(step: TakenStep) -> dict[str, Any] | None:
    return None if step.block is None else step.block.to_config()


def _tensors(step: TakenStep) -> dict[str, Tensor]:
    return {} if step.block is None else dict(step.block.state_dict())


def _held_out_results(model: Model, parts: Mapping[str, Particles]) -> dict[str, Any]:
    """NLL on rows that the fit did not train on, beside a shrinkage-covariance Gaussian of the same rows."""
    name = "holdout" if "holdout" in parts else "validation"
    held_out = parts[name]
    ours = -(log_prob(model.flow, held_out.x, held_out.context) + model.schema.log_jacobian)
    moments = Moments.of(parts["train"].x)
    gaussian = Gaussian(moments.mean.cpu(), moments.shrunk.cpu())
    nats = torch.cat([gaussian.log_prob(part.x.double().cpu()) for part in held_out.chunks()])
    theirs = -(nats + model.schema.log_jacobian)
    return {
        "held_out_on": name,
        "held_out_rows": len(held_out),
        "held_out_nll_nats": float(ours.mean()),
        "held_out_nll_se_nats": standard_error(ours),
        "gaussian_nll_nats": float(theirs.mean()),
        "gaussian_nll_se_nats": standard_error(theirs),
        "gaussian_minus_ours_nats": float((theirs - ours.cpu()).mean()),
        "gaussian_minus_ours_se_nats": standard_error(theirs - ours.cpu()),
    }


def _round_trip(model: Model, context: Table | None) -> dict[str, float]:
    """Median and largest round-trip error of a few samples, standardised units."""
    row = None if context is None else model.encode_context(context.take(slice(0, 1)), _ROUND_TRIP_ROWS)
    drawn = sample(model.flow, _ROUND_TRIP_ROWS, seed=model.settings.seed, context=row, like=model.like)
    return {"median": float(drawn.error.median()), "largest": float(drawn.error.max())}

r"""Rows as a fit sees them: standardised, dequantised and smoothed, each with noise from a named stream.

    z = smooth((f(dequantise(row)) - m) / s),    f the map of the column's kind,    p_0 the law of z

Source: the data flow of Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, section 3.1; smoothing is section
5.1.2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from jkoflow.config import Settings
from jkoflow.data import Schema, Table, Weights, dependence_notes, dependent_columns
from jkoflow.data.resolution import crowded_columns, crowding_note
from jkoflow.errors import InputError
from jkoflow.fitting.split import Split
from jkoflow.flow import Flow
from jkoflow.laws import Law
from jkoflow.model import Model, encode_table
from jkoflow.particles import Particles, SharedParticles, own_rows
from jkoflow.particles.smoothing import resolve_smoothing
from jkoflow.runtime import Runtime
from jkoflow.world import ALONE, World

__all__ = ["HeldOutRows", "empty_model", "encode_rows", "mean_log_jacobian", "particles_of"]


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


def encode_rows(model: Model, table: Table, context: Table | None, *, stream: str, seed: int) -> HeldOutRows:
    """Rows as the fit saw its own, with dequantisation and smoothing noise from the named stream."""
    x = _positions(model, table, stream=stream, seed=seed)
    given = model.encode_context(context, len(table))
    if resolve_smoothing(model.facts.get("smoothing")) is None:
        return HeldOutRows(x, given)
    return HeldOutRows(x, given, _positions(model, table, stream=stream, seed=seed, smoothed=False))


def mean_log_jacobian(schema: Schema, rows: Particles) -> float:
    """Mean over rows of the log-Jacobian of the columns' map, nats; without rounding where it is constant."""
    nats = schema.log_jacobian(rows.x)
    return float(nats[0]) + rows.mean(nats - nats[0])


def empty_model(
    table: Table,
    context: Table | None,
    weight: Weights | None,
    split: Split,
    settings: Settings,
    law: Law,
    world: World = ALONE,
) -> Model:
    """The model before the first block: columns, by the rows that a fit may see, and an empty flow.

    Its settings are those given but for float64, where float32 cannot tell the values of a column apart.

    Raises:
        InputError: A context of another number of rows, or a column that is refused.
    """
    if context is not None and len(context) != len(table):
        raise InputError(f"context: expected {len(table)} rows, one for each row, got {len(context)}")
    seen = np.concatenate([split.train, split.validation])
    counts = None if weight is None else weight[seen]
    known: dict[str, Any] = {"rows": seen, "weight": counts, "apart": split.far}
    schema, context_schema = Schema.fit(table, **known), None
    if context is not None:
        context_schema = Schema.fit(context, role="context", **known)
    settings, notes = _resolved(settings, (table, schema), (context, context_schema))
    facts: dict[str, Any] = {"training_rows": len(split.train), "validation_rows": len(split.validation)}
    relations = dependent_columns(table, schema.columns)
    dependent = {relation.column: str(relation) for relation in relations}
    if dependent:
        facts["dependent_columns"] = dependent
    found = [*split.notes(), *dependence_notes(relations)]
    schema = replace(schema, notes=(*schema.notes, *notes, *found))
    smoothing = resolve_smoothing(settings.smoothing)
    if smoothing is not None:
        raw = torch.empty(0, dtype=torch.float64)
        part = own_rows(len(split.train), world)
        x = encode_table(schema, table, like=raw, rows=split.train, part=part)
        counts = None if weight is None else torch.as_tensor(weight[split.train])
        fixed = smoothing.resolve(x, counts, world)
        facts["smoothing"] = {"kind": fixed.kind, "time": fixed.time}
    return Model(schema, Flow(law), settings, context_schema, facts)


def _resolved(
    settings: Settings, *tables: tuple[Table | None, Schema | None]
) -> tuple[Settings, tuple[str, ...]]:
    """The settings, in float64 where float32 cannot tell a column's values apart, and the note of it."""
    names = [
        name
        for table, schema in tables
        if table is not None and schema is not None
        for name in crowded_columns(table, schema.columns, np.float32)
    ]
    if not names or settings.dtype == "float64":
        return settings, ()
    return settings.with_options(dtype="float64"), (crowding_note(names),)


def particles_of(
    model: Model,
    table: Table,
    context: Table | None,
    weight: Weights | None,
    split: Split,
    world: World,
) -> dict[str, Particles]:
    """The particles of each part of the split that has rows, by its name.

    Arguments:
        model: Its columns and smoothing.
        table: All rows.
        context: What each is conditioned on, or None.
        weight: How much each counts, shape `(n,)`, or None.
        split: Which rows are in which part.
        world: The processes of the fit: rows that are trained on or held out are divided among them, those
            that choices look at are in each.
    """
    parts = dict[str, Particles]()
    for name, rows in split.parts().items():
        if not len(rows):
            continue
        is_shared = world.size > 1 and name in ("train", "holdout")
        part = own_rows(len(rows), world) if is_shared else slice(None)
        x, given = _positions(model, table, rows=rows, stream=name, seed=model.settings.seed, part=part), None
        if context is not None and model.context_schema is not None:
            given = encode_table(model.context_schema, context, like=model.like, rows=rows, part=part)
        counts = None if weight is None else torch.as_tensor(weight[rows]).to(x.device)
        if is_shared:
            parts[name] = SharedParticles(Particles(x, given), len(rows), counts, world)
        else:
            parts[name] = Particles(x, given, counts, world)
    return parts


def _positions(
    model: Model,
    table: Table,
    *,
    stream: str,
    seed: int,
    rows: npt.NDArray[np.int64] | None = None,
    smoothed: bool = True,
    part: slice = slice(None),
) -> Tensor:
    """The rows at these numbers, or all, dequantised and smoothed; the same noise each time it is called.

    Of several processes each keeps its part, with the noise that it has among all of the rows.
    """
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
        part=part,
    )

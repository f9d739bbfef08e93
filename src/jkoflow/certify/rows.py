r"""The rows that a certificate is made from: encoded as the fit encoded its own, and looked up among those.

    held out = smooth(dequantise(rows)),    repeats = #{i: hash(context_i, row_i) is one of the fit's hashes}

Rows are compared by 64 bits each, so that the fit's need not be kept: a million rows against a million find
a false repeat with a chance of 10^12 / 2^64 = 5e-8. Source: ours.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from jkoflow.certify.evidence import Evidence
from jkoflow.data import Table, Weights
from jkoflow.fitting import Split, encode_rows, split_of_run
from jkoflow.model import Model
from jkoflow.particles import Particles
from jkoflow.particles.smoothing import resolve_smoothing
from jkoflow.runs import RunFolder
from jkoflow.runs.table import find_table
from jkoflow.storage import read_json
from jkoflow.storage.scratch import row_slices

__all__ = [
    "Hashes",
    "evidence_from",
    "evidence_of_run",
    "evidence_without",
    "model_remark",
    "seen_hashes",
    "seen_in_run",
]

Hashes = npt.NDArray[np.uint64]


def evidence_from(
    model: Model,
    table: Table,
    context: Table | None = None,
    weight: Weights | None = None,
    *,
    stream: str,
    seen: Hashes | None = None,
) -> Evidence:
    """Evidence from rows of a table.

    Arguments:
        model: The model.
        table: Its columns in the order of the fit (`Schema.check`).
        context: What each row is conditioned on, one row for all or one each.
        weight: How much each row counts, shape `(n,)`; None where all count the same.
        stream: Name of the noise: `"holdout"` for the rows that the fit set aside, which gives the numbers
            that the fit was judged on; another name for others.
        seen: What `seen_hashes` gave for the rows of the fit; None where they are not known.

    Raises:
        InputError: A context that does not fit.
    """
    rows = encode_rows(model, table, context, stream=stream, seed=model.settings.seed)
    counts = None if weight is None else torch.as_tensor(weight).to(rows.x.device)
    held_out, given = Particles(rows.x, rows.context, counts), None
    if context is not None and model.context_schema is not None:
        given = model.context_schema.check(context)
    return replace(
        _bare(model),
        held_out=held_out,
        unsmoothed=None if rows.unsmoothed is None else held_out.at(rows.unsmoothed),
        repeated_rows=None if seen is None else int(np.isin(_hashes(table, given), seen).sum()),
    )


def evidence_without(model: Model, why: str) -> Evidence:
    """Evidence of the model alone, with the reason why there are no rows."""
    return replace(_bare(model), remarks=(f"no held-out rows: {why}",))


def evidence_of_run(run: RunFolder, model: Model) -> Evidence:
    """Evidence from the rows that the run's fit set aside, where its table is still what it was.

    The table is split anew by the seed, and the rows get the noise of the fit, so that these are the very
    numbers of the run's held-out NLL.
    """
    found, why = find_table(run)
    if found is None:
        return evidence_without(model, why)
    split = split_of_run(found.table, model.settings, run.description, found.context, found.weight)
    rows = split.holdout
    if not len(rows):
        return evidence_without(model, "the run set none aside (holdout_fraction)")
    return evidence_from(
        model,
        found.table.take(rows),
        None if found.context is None else found.context.take(rows),
        None if found.weight is None else found.weight[rows],
        stream="holdout",
        seen=seen_hashes(found.table, found.context, split),
    )


def seen_in_run(run: RunFolder, model: Model) -> tuple[Hashes | None, str]:
    """`seen_hashes` of the run's table, or None and one line that says why they cannot be had."""
    found, why = find_table(run)
    if found is None:
        return None, why
    split = split_of_run(found.table, model.settings, run.description, found.context, found.weight)
    return seen_hashes(found.table, found.context, split), ""


def seen_hashes(table: Table, context: Table | None, split: Split) -> Hashes:
    """Sorted 64-bit hashes of the rows that a fit looked at: trained on, or used for its choices."""
    return np.unique(_hashes(table, context)[np.concatenate([split.train, split.validation])])


def model_remark(folder: Path) -> str:
    """The line by which a stored certificate names its model: the SHA-256 of the tensors in `folder`.

    Raises:
        RunFolderError: `config.json` is missing or damaged.
    """
    digest = read_json(folder / "config.json").get("model_sha256")
    return f"of the model whose model.safetensors has SHA-256 {digest}"


def _bare(model: Model) -> Evidence:
    return Evidence(
        model.flow,
        None,
        model.settings.seed,
        smoothing=resolve_smoothing(model.facts.get("smoothing")),
        dequantised=model.schema.dequantised,
        names=tuple(model.schema.names),
        dependent=_dependent(model),
    )


def _dependent(model: Model) -> dict[str, str]:
    """What `facts.dependent_columns` says; nothing in a model of before they were looked for."""
    found = model.facts.get("dependent_columns")
    return {str(name): str(relation) for name, relation in found.items()} if isinstance(found, dict) else {}


def _hashes(table: Table, context: Table | None) -> Hashes:
    """One number for each row, its context included, shape `(n,)`."""
    given = None if context is None else np.broadcast_to(context.values, (len(table), context.dim))
    hashes = np.empty(len(table), dtype=np.uint64)
    for part in row_slices(len(table)):
        values = table.values[part]
        if given is not None:
            values = np.concatenate([given[part], values], axis=1)
        values = values + 0.0  # -0 becomes 0, which it equals
        hashes[part] = pd.util.hash_pandas_object(pd.DataFrame(values), index=False)
    return hashes

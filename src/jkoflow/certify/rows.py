r"""The rows that a certificate is made from: encoded as the fit encoded its own, and looked up among those.

    held out = smooth(dequantise(rows)),    seen: see `jkoflow.certify.fit_rows`

Source: ours.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from jkoflow.certify.evidence import Evidence
from jkoflow.certify.fit_rows import FitRows, FittedTable, SeenRows
from jkoflow.data import Table, Weights
from jkoflow.fitting import encode_rows, split_of_run
from jkoflow.model import Model
from jkoflow.particles import Particles
from jkoflow.particles.smoothing import resolve_smoothing
from jkoflow.runs import RunFolder
from jkoflow.runs.table import find_table
from jkoflow.storage import read_json

__all__ = [
    "evidence_from",
    "evidence_of_run",
    "evidence_without",
    "fitted_table_of_run",
    "held_out_evidence",
    "model_remark",
]

_MOST_FITTED_ROWS = 10_000
"""Witnesses learn from at most so many rows of the fit, which bounds the cost."""


def evidence_from(
    model: Model,
    table: Table,
    context: Table | None = None,
    weight: Weights | None = None,
    *,
    stream: str,
    fit_rows: FitRows | None = None,
) -> Evidence:
    """Evidence from rows of a table.

    Arguments:
        model: The model.
        table: Its columns in the order of the fit (`Schema.check`).
        context: What each row is conditioned on, one row for all or one each.
        weight: How much each row counts, shape `(n,)`; None where all count the same.
        stream: Name of the noise: `"holdout"` for the rows that the fit set aside, which gives the numbers
            that the fit was judged on; another name for others.
        fit_rows: The rows that the fit looked at; None where they are not known.

    Raises:
        InputError: A context that does not fit.
    """
    rows = encode_rows(model, table, context, stream=stream, seed=model.settings.seed)
    counts = None if weight is None else torch.as_tensor(weight).to(rows.x.device)
    held_out, given = Particles(rows.x, rows.context, counts), None
    if context is not None and model.context_schema is not None:
        given = model.context_schema.check(context)
    seen = None if fit_rows is None else fit_rows.seen_of(table, given)
    return replace(
        _bare(model),
        held_out=held_out,
        unsmoothed=None if rows.unsmoothed is None else held_out.at(rows.unsmoothed),
        seen=seen,
        fitted_rows=_fitted_rows(model, fit_rows, seen),
    )


def evidence_without(model: Model, why: str) -> Evidence:
    """Evidence of the model alone, with the reason why there are no rows."""
    return replace(_bare(model), remarks=(f"no held-out rows: {why}",))


def held_out_evidence(model: Model, fitted: FittedTable) -> Evidence:
    """Evidence from the rows that the fit set aside.

    They get the noise of the fit, so that these are the very numbers of its held-out NLL.
    """
    rows = fitted.split.holdout
    if not len(rows):
        return evidence_without(model, "the run set none aside (holdout_fraction)")
    return evidence_from(model, *fitted.take(rows), stream="holdout", fit_rows=fitted.looked_at)


def evidence_of_run(run: RunFolder, model: Model) -> Evidence:
    """Evidence from the rows that the run's fit set aside, where its table is still what it was."""
    fitted, why = fitted_table_of_run(run, model)
    return evidence_without(model, why) if fitted is None else held_out_evidence(model, fitted)


def fitted_table_of_run(run: RunFolder, model: Model) -> tuple[FittedTable | None, str]:
    """What the run's model was fitted to, split anew by the seed; or None and one line that says why.

    It reads the whole table.
    """
    found, why = find_table(run)
    if found is None:
        return None, why
    table, context, weight = found.table, found.context, found.weight
    split = split_of_run(table, model.settings, run.description, context, weight)
    return FittedTable(table, context, weight, model.settings, split), ""


def model_remark(folder: Path) -> str:
    """The line by which a stored certificate names its model: the SHA-256 of the tensors in `folder`.

    Raises:
        RunFolderError: `config.json` is missing or damaged.
    """
    digest = read_json(folder / "config.json").get("model_sha256")
    return f"of the model whose model.safetensors has SHA-256 {digest}"


def _fitted_rows(model: Model, fit_rows: FitRows | None, seen: SeenRows | None) -> torch.Tensor | None:
    """Rows of the fit as the model sees them, with noise of their own.

    None where they have a context, and where a held-out row is one of them: a witness would know it. On a
    grid rows recur by chance, and get noise that is new.
    """
    if fit_rows is None or fit_rows.context is not None:
        return None
    on_a_grid = len(model.schema.dequantised) == model.schema.dim
    if seen is not None and seen.exact + seen.near > 0 and not on_a_grid:
        return None
    table = fit_rows.sample(_MOST_FITTED_ROWS, model.settings.seed)
    return encode_rows(model, table, None, stream="witnesses", seed=model.settings.seed).x


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

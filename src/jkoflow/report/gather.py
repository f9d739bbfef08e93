"""Gathers what a report shows: the run's own record, the table read again, and samples of the model.

    real rows          the table, its columns dequantised as the fit dequantised them
    latent rows        T(z) of the very rows that the held-out NLL is of
    generated rows     T^{-1}(y), y ~ N(0, I) from the run's seed

A reader: the run and the table stay as they are.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jkoflow.certify import Certificates
from jkoflow.certify.rows import model_remark
from jkoflow.certify.subject import subject_of
from jkoflow.data import Table
from jkoflow.fitting import Split, encode_rows, split_of_run
from jkoflow.model import Model, load_model
from jkoflow.report.contents import HeldOut, ReportData
from jkoflow.report.samples import pick_rows
from jkoflow.runs import RunFolder
from jkoflow.runs.entries import require_entries
from jkoflow.runs.table import find_table
from jkoflow.runtime import seed_stream
from jkoflow.storage import read_json

__all__ = ["gather_report", "image_shape_of", "read_certificates"]

Reals = npt.NDArray[np.float64]

_RESULTS = (
    *("held_out_nll_nats", "held_out_nll_se_nats", "gaussian_nll_nats", "gaussian_nll_se_nats"),
    *("gaussian_minus_ours_se_nats", "held_out_rows", "held_out_on", "notes"),
)
"""Results of the run that the page shows."""

_PIXEL = re.compile(r"pixel_(\d+)_(\d+)")


def gather_report(run: RunFolder, *, rows: int = 2000) -> tuple[ReportData, str]:
    """What the page of a finished run shows, and one line on why real rows are missing, or "".

    Arguments:
        run: A finished run.
        rows: Most real rows that are shown, and how many are generated beside them.

    Raises:
        RunFolderError: The run is damaged.
    """
    require_entries(run, ("table.rows", "settings", *(f"results.{name}" for name in _RESULTS)))
    model, description, results = load_model(run.model), run.description, run.results
    found, why = find_table(run)
    missing = f"the page is without real rows: {why}" if why else ""
    real = latent = context = None
    if found is not None:
        table, context = found.table, found.context
        picked = pick_rows(np.arange(float(len(table)))[:, None], rows)[:, 0].astype(np.int64)
        real = _dequantised(model, table.take(picked), model.settings.seed)
        split = split_of_run(table, model.settings, description, context, found.weight)
        latent = _latent(model, table, context, split, results["held_out_on"])
        context = None if context is None else context.take(picked)
    certificates, uncertified = read_certificates(run)
    empty = np.empty((0, model.schema.dim))
    data = ReportData(
        title=Path(description["table"]["path"] or "a table").name,
        n_rows=description["table"]["rows"],
        columns=model.schema.names,
        real=empty if real is None else real,
        generated=_generated(model, context, rows),
        latent=latent,
        held_out=_held_out(results),
        steps=tuple(run.read_records()),
        image_shape=image_shape_of(model.schema.names),
        settings=description["settings"],
        notes=(*results["notes"], *([missing] if missing else [])),
        environment=_environment(run),
        certificates=certificates,
        uncertified=uncertified,
        subject=subject_of(model, str(run.path), run),
    )
    return data, missing


def image_shape_of(columns: tuple[str, ...]) -> tuple[int, int] | None:
    """Height and width where the columns are named pixel_ROW_COLUMN, row by row from 0; else None."""
    found = [match and (int(match[1]), int(match[2])) for match in map(_PIXEL.fullmatch, columns)]
    places = [place for place in found if place]
    if not places or len(places) < len(columns):
        return None
    height, width = places[-1][0] + 1, places[-1][1] + 1
    return (height, width) if places == list(np.ndindex(height, width)) else None


def _dequantised(model: Model, table: Table, seed: int) -> Reals:
    """Rows as a flow can reproduce them, data units."""
    generator = seed_stream(seed, "dequantisation report")
    return model.schema.decode(model.schema.encode(table, generator=generator))


def _latent(model: Model, table: Table, context: Table | None, split: Split, part: str) -> Reals:
    rows = split.parts()[part]
    given = None if context is None else context.take(rows)
    held_out = encode_rows(model, table.take(rows), given, stream=part, seed=model.settings.seed)
    return np.asarray(model.flow.push(held_out.x, held_out.context).double().cpu().numpy())


def _generated(model: Model, context: Table | None, rows: int) -> Reals:
    if model.context_schema is not None and context is None:
        return np.empty((0, model.schema.dim))
    n_rows = rows if context is None else len(context)
    return model.sample(n_rows, seed=model.settings.seed, context=context)[0]


def _held_out(results: dict[str, Any]) -> HeldOut:
    return HeldOut(
        nll=results["held_out_nll_nats"],
        se=_number(results["held_out_nll_se_nats"]),
        gaussian_nll=results["gaussian_nll_nats"],
        gaussian_se=_number(results["gaussian_nll_se_nats"]),
        difference_se=_number(results["gaussian_minus_ours_se_nats"]),
        rows=results["held_out_rows"],
        steered=results["held_out_on"] == "validation",
    )


def read_certificates(run: RunFolder) -> tuple[Certificates | None, str]:
    """What `jkoflow certify` wrote of the run's model, or one line on why there is nothing to show.

    Raises:
        RunFolderError: The file is there and damaged.
    """
    file, command = run.content / "certificates.json", f"jkoflow certify {shlex.quote(str(run.path))}"
    if not file.exists():
        return None, f"the model was not certified; {command} tells, then make this page again"
    remedy = f"make it again with {command} --overwrite"
    certificates = Certificates.from_dict(read_json(file, remedy=remedy), path=str(file), remedy=remedy)
    if model_remark(run.model) not in certificates.notes:
        return None, f"certificates.json is not of this model; {remedy}"
    return certificates, ""


def _number(value: float | None) -> float:
    """NaN where JSON, which has none, holds null."""
    return float("nan") if value is None else value


def _environment(run: RunFolder) -> dict[str, Any]:
    file = run.content / "environment.json"
    return {key: value for key, value in read_json(file).items() if key != "format"} if file.exists() else {}

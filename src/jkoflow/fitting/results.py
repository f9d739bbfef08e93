r"""What a fit tells of itself at its end: held-out NLL beside a Gaussian's, round trip, time, notes.

    NLL = -(1/n) sum_i log q_0(x_i),     rows x_i held out, or else of validation, nats, data units

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, below eq. (38).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from jkoflow.data import Table
from jkoflow.errors import NumericalError
from jkoflow.flow import Flow, log_prob, sample
from jkoflow.flow.cells import log_cell_mass
from jkoflow.flow.sampling import rows_together
from jkoflow.laws import Gaussian
from jkoflow.model import Model
from jkoflow.particles import Moments, Particles, joined
from jkoflow.runtime import base_noise

__all__ = ["check_cell_mass", "rehearsed_results", "results_of"]

Numbers = npt.NDArray[np.int64]


def results_of(
    model: Model,
    judged: Model,
    parts: Mapping[str, Particles],
    context: Table | None,
    *,
    groups: Mapping[str, Numbers | None],
    **told: Any,
) -> dict[str, Any]:
    """The summary.

    Arguments:
        model: The fitted model.
        judged: The model that the validation rows may judge, where the other was fitted on them.
        parts: The particles of each part of the split.
        context: The context's rows, or None.
        groups: The group of near copies of each row of each part; None where no rows are near copies.
        told: What else is told: CPU-seconds, and why the fit ended.
    """
    notes = [*model.schema.notes, *([] if judged is model else [_fitted_on_all])]
    return {
        **_held_out(model if "holdout" in parts else judged, parts, groups),
        "round_trip_error": _round_trip(model, context),
        "blocks": len(model.flow),
        **told,
        "notes": notes,
    }


def check_cell_mass(flow: Flow, train: Particles, *, rows: int = 4096, rounding: float = 0.1) -> None:
    """Refuse a density that puts more than 1 on the cells of its float type around training rows.

    Arguments:
        flow: The density.
        train: Training rows; the first of them, which are in random order, are looked at.
        rows: How many.
        rounding: Nats by which `log_prob` may be too high throughout for its own rounding.

    Raises:
        NumericalError: It is no density; the model must not be kept.
    """
    some = train.rows(slice(0, rows))
    nats = log_cell_mass(flow, some.x, some.context)
    if nats > rounding:
        dtype = str(some.x.dtype).removeprefix("torch.")
        remedy = "fit with dtype='float64'" if dtype != "float64" else "take a logarithm of narrow columns"
        raise NumericalError(
            f"the fitted density puts e^{nats:.1f} on the {dtype} cells around {len(some):,} training rows, "
            "expected at most 1: it is no density, and no model was kept",
            remedy=remedy,
        )


def rehearsed_results(
    flow: Flow, parts: Mapping[str, Particles], seed: int, *, most: int = 64, cell_rows: int = 4096
) -> float:
    """Do a part of what `check_cell_mass` and `results_of` do, and return how many times as much that is.

    It is a 64th of many columns, whose rows take long, and an 8th of two, of which a call takes longer than
    its few rows.

    Arguments:
        flow: The flow so far.
        parts: The particles of each part of the split, as they were before the first step.
        seed: Of the samples whose round trip is told.
        most: What is returned at most.
        cell_rows: Rows that `check_cell_mass` looks at.
    """
    share = min(most, most // 8 * max(1, flow.dim // 2))
    judged, train = parts["holdout" if "holdout" in parts else "validation"], parts["train"]
    count = -(-(len(judged) + min(len(train), cell_rows)) // share)
    some = train.rows(slice(0, count))
    log_prob(flow, some.x, some.context)
    noise = base_noise(seed, max(1, rows_together(flow.dim) // share), flow.dim).to(some.x)
    split, context = flow.split_source(), some.context
    few = None if context is None else context[:1].expand(len(noise), -1)
    (flow if split is None else split[0]).invert(noise, few)
    return float(share)


_fitted_on_all = (
    "no block lowered the validation NLL significantly below that of a Gaussian: the model is a Gaussian, "
    "fitted again on training and validation rows together"
)


def _held_out(
    model: Model, parts: Mapping[str, Particles], groups: Mapping[str, Numbers | None]
) -> dict[str, Any]:
    """NLL on rows that no block was trained on, beside that of a Gaussian fitted to the training rows.

    Both are in nats in data units. The Gaussian has the shrunk covariance of `Moments`.
    """
    name = "holdout" if "holdout" in parts else "validation"
    rows, group = parts[name], groups[name]
    if name == "validation" and "outliers" in parts:
        rows, far = joined(rows, parts["outliers"]), groups["outliers"]
        group = None if group is None or far is None else np.concatenate([group, far])
    jacobian = rows.each(lambda part: model.schema.log_jacobian(part.x))
    ours = -(rows.each(lambda part: log_prob(model.flow, part.x, part.context).cpu()) + jacobian)
    moments = Moments.of(parts["train"])
    gaussian = Gaussian(moments.mean.cpu(), moments.shrunk.cpu())
    nats = rows.each(lambda part: gaussian.log_prob(part.x.double().cpu()))
    theirs = -(nats + jacobian)
    return {
        "held_out_on": name,
        "held_out_rows": len(rows),
        "held_out_nll_nats": rows.mean(ours),
        "held_out_nll_se_nats": _standard_error(rows, ours, group),
        "gaussian_nll_nats": rows.mean(theirs),
        "gaussian_nll_se_nats": _standard_error(rows, theirs, group),
        "gaussian_minus_ours_nats": rows.mean(theirs - ours),
        "gaussian_minus_ours_se_nats": _standard_error(rows, theirs - ours, group),
    }


def _standard_error(rows: Particles, nats: Tensor, group: Numbers | None) -> float:
    """Standard error of the weighted mean of `nats`, shape `(n,)`; groups of near copies count as one each.

    The sandwich estimator for clusters, of sums of deviations in each (Liang & Zeger 1986, Biometrika 73).
    """
    if group is None:
        return rows.standard_error(nats)
    _, label = np.unique(group, return_inverse=True)
    weight = torch.ones_like(nats) if rows.weight is None else rows.weight.to(nats)
    off = (weight * (nats - rows.mean(nats))).cpu().numpy()
    sums = np.bincount(label, weights=off)
    if len(sums) < 2:
        return math.nan
    return float(np.sqrt(len(sums) / (len(sums) - 1) * np.sum(sums**2)) / float(weight.sum()))


def _round_trip(model: Model, context: Table | None, *, most: int = 256) -> dict[str, float]:
    """Median and largest round-trip error of a few samples, standardised units."""
    rows = min(most, rows_together(model.flow.dim))
    row = None if context is None else model.encode_context(context.take(slice(0, 1)), rows)
    drawn = sample(model.flow, rows, seed=model.settings.seed, context=row, like=model.like)
    return {"median": float(drawn.error.median()), "largest": float(drawn.error.max())}

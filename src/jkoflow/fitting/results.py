r"""What a fit tells of itself at its end: held-out NLL beside a Gaussian's, round trip, time, notes.

    NLL = -(1/n) sum_i log q_0(x_i),     rows x_i held out, or else of validation, nats, data units

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, below eq. (38).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from jkoflow.data import Table
from jkoflow.flow import log_prob, sample
from jkoflow.laws import Gaussian
from jkoflow.model import Model
from jkoflow.particles import Moments, Particles

__all__ = ["results_of"]


def results_of(
    model: Model, judged: Model, parts: Mapping[str, Particles], context: Table | None, **told: Any
) -> dict[str, Any]:
    """The summary.

    Arguments:
        model: The fitted model.
        judged: The model that the validation rows may judge, where the other was fitted on them.
        parts: The particles of each part of the split.
        context: The context's rows, or None.
        told: What else is told: CPU-seconds, for example.
    """
    notes = [*model.schema.notes, *([] if judged is model else [_fitted_on_all])]
    return {
        **_held_out(model if "holdout" in parts else judged, parts),
        "round_trip_error": _round_trip(model, context),
        "blocks": len(model.flow),
        **told,
        "notes": notes,
    }


_fitted_on_all = (
    "no block lowered the validation NLL significantly below that of a Gaussian: the model is a Gaussian, "
    "fitted again on training and validation rows together"
)


def _held_out(model: Model, parts: Mapping[str, Particles]) -> dict[str, Any]:
    """NLL on rows that no block was trained on, beside that of a Gaussian fitted to the training rows.

    Both are in nats in data units. The Gaussian has the shrunk covariance of `Moments`.
    """
    name = "holdout" if "holdout" in parts else "validation"
    rows = parts[name]
    jacobian = model.schema.log_jacobian(rows.x)
    ours = -(log_prob(model.flow, rows.x, rows.context).cpu() + jacobian)
    moments = Moments.of(parts["train"])
    gaussian = Gaussian(moments.mean.cpu(), moments.shrunk.cpu())
    nats = torch.cat([gaussian.log_prob(part.x.double().cpu()) for part in rows.chunks()])
    theirs = -(nats + jacobian)
    return {
        "held_out_on": name,
        "held_out_rows": len(rows),
        "held_out_nll_nats": rows.mean(ours),
        "held_out_nll_se_nats": rows.standard_error(ours),
        "gaussian_nll_nats": rows.mean(theirs),
        "gaussian_nll_se_nats": rows.standard_error(theirs),
        "gaussian_minus_ours_nats": rows.mean(theirs - ours),
        "gaussian_minus_ours_se_nats": rows.standard_error(theirs - ours),
    }


def _round_trip(model: Model, context: Table | None, *, rows: int = 256) -> dict[str, float]:
    """Median and largest round-trip error of a few samples, standardised units."""
    row = None if context is None else model.encode_context(context.take(slice(0, 1)), rows)
    drawn = sample(model.flow, rows, seed=model.settings.seed, context=row, like=model.like)
    return {"median": float(drawn.error.median()), "largest": float(drawn.error.max())}

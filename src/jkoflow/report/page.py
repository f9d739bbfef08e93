"""The page: numbers as text, figures as data URIs, one template; it loads nothing from anywhere."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from jkoflow.certify.answer import GOOD_NATS, MARKS, USABLE_NATS, answer, scale_of
from jkoflow.certify.claim import verdict_counts
from jkoflow.certify.told import command_line
from jkoflow.report.certificates import bracket_ends, claim_groups
from jkoflow.report.contents import HeldOut, ReportData
from jkoflow.report.drawing import GENERATED, REAL
from jkoflow.report.glossary import GLOSSARY
from jkoflow.report.limits import Limits
from jkoflow.report.normality import Normality, measure_normality
from jkoflow.report.samples import draw_chi2, draw_histograms, draw_images, draw_pairs, draw_qq
from jkoflow.report.training import draw_nll, draw_terms, draw_transport, path_length
from jkoflow.storage import visible

__all__ = ["Card", "render_report"]

MISSING = "–"


@dataclass(frozen=True)
class Card:
    """One number of the summary, with what it means."""

    label: str
    value: str
    detail: str = ""


def format_number(value: object, *, digits: int = 4) -> str:
    """A number to `digits` significant ones, with a true minus sign; None and NaN as a dash."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{int(value):,}".replace("-", "−")
    if isinstance(value, float | np.floating):
        number = float(value)
        text = f"{number:#,.{digits}g}" if abs(number) < 1e5 else f"{number:.{digits - 1}e}"
        return MISSING if math.isnan(number) else text.removesuffix(".").replace("-", "−")
    return str(value)


def format_fixed(value: float | None, decimals: int = 2) -> str:
    """A number to so many decimals, with a true minus sign."""
    if value is None or math.isnan(value):
        return MISSING
    return f"{value:,.{decimals}f}".replace("-", "−")


def format_setting(value: object) -> str:
    """A setting or a version as one line."""
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, default=str, ensure_ascii=False)
    return "none" if value is None else str(value)


def _likelihood_cards(held_out: HeldOut) -> list[Card]:
    name = "Validation NLL" if held_out.steered else "Held-out NLL"
    cards = [Card(name, format_fixed(held_out.nll), f"± {format_fixed(held_out.se)} · {held_out.unit}")]
    if held_out.gaussian_nll is not None and held_out.gain is not None:
        better = "better than" if held_out.gain >= 0 else "worse than"
        cards += [
            Card(
                "Gaussian's NLL",
                format_fixed(held_out.gaussian_nll),
                f"± {format_fixed(held_out.gaussian_se)} · shrinkage covariance, same rows",
            ),
            Card(
                "Difference",
                format_fixed(abs(held_out.gain)),
                f"± {format_fixed(held_out.gain_se)} · nats {better} the Gaussian",
            ),
        ]
    return cards


def summary_cards(data: ReportData) -> list[Card]:
    """The numbers at the top of the page."""
    cards = [] if data.held_out is None else _likelihood_cards(data.held_out)
    cards.append(Card("Table", f"{data.n_rows:,} × {len(data.columns):,}", "rows × columns"))
    if data.blocks:
        kept = [block for block in data.blocks if block.get("kept", True)]
        seconds = sum(block.get("cpu_seconds") or 0.0 for block in data.blocks)
        cards += [
            Card(
                "Blocks",
                f"{len(kept):,}",
                f"{len(data.blocks):,} trained · {format_number(seconds, digits=3)} CPU-s",
            ),
            Card(
                "Path length",
                format_fixed(path_length(data.blocks)),
                "Σ root-mean-square movement, standardised",
            ),
        ]
    return cards


def block_rows(data: ReportData) -> list[dict[str, str]]:
    """The table of blocks as text."""
    return [
        {
            "block": format_number(block.get("block")),
            "type": str(block.get("block_type") or MISSING).replace("_", " "),
            "gamma": _format_gamma(block),
            "steps": format_number(block.get("integration_steps")),
            "updates": _format_updates(block.get("updates")),
            "finished": str(block.get("finished_on", MISSING)).replace("_", " "),
            "nll": format_fixed(block.get("held_out_nll_nats"), 3),
            "nll_data": format_fixed(block.get("held_out_nll_data_nats"), 3),
            "movement": format_number(math.sqrt(max(block.get("transport") or 0.0, 0.0)), digits=3),
            "doubling": format_number(block.get("step_doubling_error"), digits=2),
            "kept": format_number(block.get("kept", True)),
            "retries": format_number(block.get("retries", 0)),
            "seconds": format_number(block.get("cpu_seconds"), digits=3),
        }
        for block in data.blocks
    ]


def _format_gamma(block: Mapping[str, Any]) -> str:
    """The step size that a block comes nearest to and, where that is another, the one of the schedule."""
    gamma, nominal = block.get("gamma"), block.get("nominal_gamma")
    if gamma is None:
        return "free"
    found = format_number(gamma, digits=3)
    return found if nominal in (None, gamma) else f"{found} (schedule: {format_number(nominal, digits=3)})"


def _format_updates(updates: object) -> str:
    if isinstance(updates, Mapping):
        return " + ".join(
            f"{format_number(count)} {str(name).replace('_', ' ')}" for name, count in updates.items()
        )
    return format_number(updates)


def format_decision(record: Mapping[str, Any]) -> str:
    """A decision as one line: the block, what was decided, then whatever else was recorded."""
    rest = {name: value for name, value in record.items() if name not in {"format", "kind", "block", "what"}}
    chosen = rest.pop("value", None)
    rest |= chosen if isinstance(chosen, Mapping) else {} if chosen is None else {"value": chosen}
    details = ", ".join(f"{name.replace('_', ' ')} {_in_words(value)}" for name, value in rest.items())
    block = f"Block {record['block']}: " if record.get("block") is not None else ""
    return f"{block}{record.get('what', 'decided')}{f' ({details})' if details else ''}"


def _in_words(value: object) -> str:
    is_plain = isinstance(value, bool | int | float)
    return format_number(value, digits=3) if is_plain else format_setting(value)


def marginal_rows(data: ReportData, limits: Limits) -> list[tuple[str, ...]]:
    """Column, means (real, generated) and standard deviations (real, generated) of the first columns."""
    return [
        (
            data.columns[column],
            *(
                format_number(float(statistic(rows[:, column])))
                for statistic in (np.mean, np.std)
                for rows in (data.real, data.generated)
            ),
        )
        for column in range(min(len(data.columns), limits.marginals))
    ]


def _finite(data: ReportData) -> ReportData:
    """The same without rows that are not finite, each kind of them told in a note."""
    changes: dict[str, Any] = {}
    notes = list(data.notes)
    for name, what in (("real", "Real"), ("generated", "Generated"), ("latent", "Pushed")):
        rows = getattr(data, name)
        if rows is None:
            continue
        finite = np.isfinite(rows).all(axis=1)
        changes[name] = np.asarray(rows, dtype=np.float64)[finite]
        if not finite.all():
            notes.append(
                f"{what} rows that are not finite, left out of this page: {np.count_nonzero(~finite):,}."
            )
    return replace(data, **changes, notes=tuple(notes))


def _figures(data: ReportData, limits: Limits) -> dict[str, str]:
    figures = {}
    if len(data.real) and len(data.generated):
        if data.image_shape is not None:
            for name, rows, color in (("real", data.real, REAL), ("generated", data.generated, GENERATED)):
                figures[f"images_{name}"] = draw_images(rows, data.image_shape, like=data.real, color=color)
        else:
            figures["histograms"] = draw_histograms(data.real, data.generated, data.columns, limits=limits)
            if len(data.columns) > 1:
                figures["pairs"] = draw_pairs(data.real, data.generated, data.columns, limits=limits)
    if data.blocks:
        figures["nll"] = draw_nll(data.blocks, data.held_out)
        figures["terms"] = draw_terms(data.blocks)
        figures["transport"] = draw_transport(data.blocks)
    if data.latent is not None and len(data.latent) > 1:
        figures["qq"] = draw_qq(data.latent, limits=limits)
        figures["chi2"] = draw_chi2(data.latent, limits=limits)
    return figures


def _normality(data: ReportData) -> Normality | None:
    return None if data.latent is None or len(data.latent) < 2 else measure_normality(data.latent)


def _certificates(data: ReportData) -> dict[str, Any]:
    """What the answer at the top and the claims under it show."""
    if data.certificates is None:
        return {}
    found = answer(data.certificates, data.subject)
    return {
        "answer": found,
        "mark": MARKS[found.tone],
        "command": command_line(found),
        "scale": scale_of(data.certificates.kl),
        "good_nats": GOOD_NATS,
        "usable_nats": USABLE_NATS,
        "glossary": GLOSSARY,
        "ends": bracket_ends(data.certificates.kl),
        "counts": verdict_counts(data.certificates.claims),
        "groups": claim_groups(data.certificates),
    }


def _visible(value: object) -> object:
    """What the page shows of a value: of text, no character that acts on what stands around it."""
    return visible(value) if type(value) is str else value


def render_report(data: ReportData, *, limits: Limits | None = None) -> str:
    """Return the whole page as one HTML text that refers to nothing outside itself.

    The same data gives the same text.

    Arguments:
        data: What the page is about.
        limits: How many columns and points are shown; `Limits()` if None.
    """
    data, limits = _finite(data), limits or Limits()
    environment = Environment(
        loader=PackageLoader("jkoflow.report", "."),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": format_number, "fixed": format_fixed, "setting": format_setting}
    return environment.get_template("page.html.j2").render(
        data=data,
        limits=limits,
        cards=summary_cards(data),
        figures=_figures(data, limits),
        blocks=block_rows(data),
        decisions=[format_decision(record) for record in data.decisions],
        marginals=marginal_rows(data, limits) if len(data.real) and len(data.generated) else [],
        normality=_normality(data),
        **_certificates(data),
        real_color=REAL,
        generated_color=GENERATED,
    )

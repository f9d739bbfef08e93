"""`jkoflow certify`: how far a model is from the data, and how one knows; it changes neither.

    lower <= KL(data‖model) <= upper,    and claims that hold, fail, or are undecided

Source: ours; docs/theory.md, "Certificates".
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from jkoflow.certify import Certificates, Claim, Evidence, KLBracket, certify
from jkoflow.certify.claim import is_finite, verdict_counts
from jkoflow.certify.rows import evidence_from, evidence_of_run, evidence_without, model_remark, seen_in_run
from jkoflow.cli.models import Opened, open_run
from jkoflow.cli.status import ExitStatus
from jkoflow.cli.terminal import hint, say, tell
from jkoflow.data import Table, read_table
from jkoflow.model import Model
from jkoflow.storage import shown, validate_new_output, write_bytes_atomic

__all__ = ["certificate_lines", "run"]


def run(options: argparse.Namespace) -> int:
    """Certify, print, write; the exit status."""
    with open_run(options.model) as opened:
        output = _output(options.output, opened)
        if output is not None:
            validate_new_output(output, overwrite=options.overwrite)
        evidence = _evidence(options.data, opened)
        remarks = (*evidence.remarks, model_remark(opened.folder))
        hint(_begin(evidence))
        certificates = certify(replace(evidence, remarks=remarks))
        if output is not None:
            text = f"{certificates.to_json()}\n".encode()
            write_bytes_atomic(output, text, overwrite=options.overwrite)
    for line in certificate_lines(certificates):
        say(line)
    say(_line("certificates", "not written; give -o FILE to keep them" if output is None else shown(output)))
    failed = len(certificates.failed)
    if options.strict and failed:
        tell(f"jkoflow: {failed} of {len(certificates.claims)} claims fail")
        return ExitStatus.CLAIM_FAILS
    return ExitStatus.DONE


def _output(name: str | None, opened: Opened) -> Path | None:
    if name is not None:
        return Path(name)
    return None if opened.run is None else opened.run.content / "certificates.json"


def _evidence(data: str | None, opened: Opened) -> Evidence:
    """The rows to judge by: those of --data, or those that the run's fit set aside."""
    model, folder = opened.model, opened.run
    if data is None:
        if folder is None:
            return evidence_without(model, "a model folder alone has none; give rows with --data")
        return evidence_of_run(folder, model)
    table, context = _split_columns(read_table(data), model)
    seen, why = (None, "") if folder is None else seen_in_run(folder, model)
    evidence = evidence_from(model, table, context, stream="certify", seen=seen)
    return replace(
        evidence,
        remarks=(f"whether rows of --data repeat rows of the fit was not checked: {why}",) if why else (),
    )


def _begin(evidence: Evidence) -> str:
    rows = (
        f"{len(evidence.held_out):,} held-out rows" if evidence.held_out else "the model alone, without rows"
    )
    return f"certifying with {rows}; this takes from seconds to a few minutes"


def _split_columns(full: Table, model: Model) -> tuple[Table, Table | None]:
    """The columns that the model learned, in its order, and those that it is conditioned on."""
    if model.context_schema is None:
        return model.schema.check(full), None
    given = model.context_schema.names
    return model.schema.check(full.drop(given)), full.select(given)


# ── what is printed ──


def certificate_lines(certificates: Certificates) -> list[str]:
    """The summary: the bracket, the verdicts by source, what fails, the notes."""
    sources = certificates.by_source.items()
    return [
        *_bracket_lines(certificates.kl),
        _line("claims", verdict_counts(certificates.claims)),
        *(_line("", f"{verdict_counts(claims):<32}{source}") for source, claims in sources),
        *(line for claim in certificates.failed for line in _failure_lines(claim)),
        *(_line("note", note) for note in certificates.notes),
    ]


def _bracket_lines(kl: KLBracket) -> list[str]:
    if kl.lower is None:
        return [_line("KL(data‖model)", "not known; the notes and the claims on it say why")]
    level = f"at {100 * kl.level:.0f} %"
    if is_finite(kl.upper):
        told = f"between {kl.lower:.4f} and {kl.upper:.4f} nats {level}"
    elif kl.lower > 0:
        told = f"at least {kl.lower:.4f} nats {level}, without an upper bound"
    else:
        told = f"no lower bound above 0 nats could be proved {level}, and there is no upper bound"
    if is_finite(kl.estimate):
        told += f", estimate {kl.estimate:.4f}"
    return [_line("KL(data‖model)", told), *([_line("", f"assuming: {kl.assumption}")] * bool(kl.assumption))]


def _failure_lines(claim: Claim) -> list[str]:
    block = "" if claim.block is None else f" (block {claim.block})"
    numbers = [
        f"{name} {value:.4g}"
        for name, value in (("measured", claim.measured), ("bound", claim.bound))
        if value is not None
    ]
    told = f"{', '.join(numbers)} {claim.unit}".strip()
    return [_line("fails", f"{claim.claim}{block}: {told}"), _line("", f"remedy: {claim.remedy}")]


def _line(name: str, text: str) -> str:
    return f"{name:<16}{text}"

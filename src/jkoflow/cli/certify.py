"""`jkoflow certify`: how far a model is from the data, and how one knows; it changes neither.

    lower <= KL(data‖model) <= upper,    and claims that hold, fail, or are undecided

Source: ours; docs/theory.md, "Certificates".
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from jkoflow.certify import Certificates, Evidence, certify
from jkoflow.certify.answer import Tone, answer, is_known
from jkoflow.certify.cross_validation import with_cross_validation
from jkoflow.certify.rows import (
    evidence_from,
    evidence_without,
    fitted_table_of_run,
    held_out_evidence,
    model_remark,
)
from jkoflow.certify.same_law import recorded_of
from jkoflow.certify.subject import Subject, subject_of
from jkoflow.certify.told import summary_lines
from jkoflow.cli.models import Opened, open_run
from jkoflow.cli.status import ExitStatus
from jkoflow.cli.terminal import hint, say, tell
from jkoflow.data import Table, read_table
from jkoflow.model import Model
from jkoflow.runs import RunFolder
from jkoflow.storage import shown, validate_new_output, write_bytes_atomic

__all__ = ["certificate_lines", "certify_run", "first_lines", "run", "say_certificates"]


_NAME = "certificates.json"
"""Of the file in a run folder."""


def run(options: argparse.Namespace) -> int:
    """Certify, print, write; the exit status."""
    with open_run(options.model) as opened:
        output = _output(options.output, opened)
        if output is not None:
            validate_new_output(output, overwrite=options.overwrite)
        evidence = _evidence(options.data, opened)
        remarks = (*evidence.remarks, model_remark(opened.folder))
        hint(_begin(evidence))
        recorded = None if options.data is None else recorded_of(opened.model)
        certificates = certify(replace(evidence, remarks=remarks), recorded=recorded)
        subject = subject_of(opened.model, options.model, opened.run)
        if output is not None:
            text = f"{certificates.to_json()}\n".encode()
            write_bytes_atomic(output, text, overwrite=options.overwrite)
    say_certificates(certificates, subject)
    kept = "not written; give -o FILE to keep them" if output is None else shown(output)
    say(f"{'certificates':<16}{kept}")
    return _status(certificates, options)


def certify_run(run: RunFolder, model: Model) -> Certificates:
    """Certify a finished run's model by the rows that its fit set aside, and keep the certificates there."""
    evidence = _of_run(run, model)
    remarks = (*evidence.remarks, model_remark(run.model))
    certificates = certify(replace(evidence, remarks=remarks))
    write_bytes_atomic(run.content / _NAME, f"{certificates.to_json()}\n".encode(), overwrite=True)
    return certificates


def first_lines(certificates: Certificates, subject: Subject) -> list[str]:
    """The sentence and the bracket with its scale."""
    lines = certificate_lines(certificates, subject)
    return lines[: next(place for place, line in enumerate(lines) if line.startswith("next"))]


def say_certificates(certificates: Certificates, subject: Subject) -> None:
    """Print the summary, its first line in its colour."""
    first, *rest = certificate_lines(certificates, subject)
    say(first, colour=_ANSI[answer(certificates).tone])
    for line in rest:
        say(line)


def _status(certificates: Certificates, options: argparse.Namespace) -> int:
    """0, but under --strict 1 where a claim fails, the model is not to be used, or nothing is known of it."""
    if not options.strict:
        return ExitStatus.DONE
    failed = len(certificates.failed)
    if failed:
        tell(f"jkoflow: {failed} of {len(certificates.claims)} claims fail")
        return ExitStatus.CLAIM_FAILS
    found = answer(certificates)
    if found.tone == "bad":
        tell(f"jkoflow: {found.sentence}")
        return ExitStatus.CLAIM_FAILS
    if not is_known(certificates.kl) and not options.allow_undecided:
        tell(f"jkoflow: {found.sentence}; --allow-undecided lets that pass")
        return ExitStatus.CLAIM_FAILS
    return ExitStatus.DONE


def _output(name: str | None, opened: Opened) -> Path | None:
    if name is not None:
        return Path(name)
    return None if opened.run is None else opened.run.content / _NAME


def _evidence(data: str | None, opened: Opened) -> Evidence:
    """The rows to judge by: those of --data, or those that the run's fit set aside."""
    model, folder = opened.model, opened.run
    if data is None:
        if folder is None:
            return evidence_without(model, "a model folder alone has none; give rows with --data")
        return _of_run(folder, model)
    table, context = _split_columns(read_table(data), model)
    fitted, why = (None, "") if folder is None else fitted_table_of_run(folder, model)
    fit_rows = None if fitted is None else fitted.looked_at
    evidence = evidence_from(model, table, context, stream="certify", fit_rows=fit_rows)
    return replace(
        evidence,
        remarks=(f"whether rows of --data repeat rows of the fit was not checked: {why}",) if why else (),
    )


def _of_run(run: RunFolder, model: Model) -> Evidence:
    """The rows that the fit set aside; of a small table every row, under a model fitted without it."""
    fitted, why = fitted_table_of_run(run, model)
    if fitted is None:
        return evidence_without(model, why)
    return with_cross_validation(held_out_evidence(model, fitted), fitted, progress=_say_which)


def _say_which(number: int, of: int) -> None:
    hint(f"cross-validation: fitting model {number} of {of} without a part of the rows")


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


def certificate_lines(certificates: Certificates, subject: Subject | None = None) -> list[str]:
    """The answer, the verdicts by source, what fails, the notes."""
    return summary_lines(certificates, subject or Subject())


_ANSI: dict[Tone, str] = {"good": "32", "usable": "33", "bad": "31", "unknown": "90"}

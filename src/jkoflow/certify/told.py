"""A certificate as lines of text and as HTML: the answer first, then the verdicts, what fails, the notes.

Source: ours; the sentences are of `answer`.
"""

from __future__ import annotations

import html
import shlex
from collections.abc import Iterator

from jkoflow.certify.answer import MARKS, Answer, Tone, answer, bracket_lines
from jkoflow.certify.claim import Certificates, Claim, verdict_counts
from jkoflow.certify.subject import Subject

__all__ = ["COLOURS", "command_line", "labelled_lines", "summary_html", "summary_lines"]

COLOURS: dict[Tone, str] = {"good": "#1f7a4d", "usable": "#8a5a00", "bad": "#b3261e", "unknown": "#5b6573"}
"""Of the sentence in HTML: at least 4.5 to 1 against white."""


def summary_lines(certificates: Certificates, subject: Subject | None = None) -> list[str]:
    """The summary, with the label of each line before it.

    Arguments:
        certificates: What is known.
        subject: The model, for a command of the shell; None for a call of Python.
    """
    return [f"{label:<16}{text}" for label, text in labelled_lines(certificates, subject)]


def labelled_lines(certificates: Certificates, subject: Subject | None = None) -> list[tuple[str, str]]:
    """The label and the text of each line of the summary; the first is the sentence, "" goes on."""
    found = answer(certificates, subject)
    first, *more = bracket_lines(certificates.kl)
    return [
        ("verdict", f"{MARKS[found.tone]} {found.sentence}"),
        ("KL(data‖model)", first),
        *(("", line) for line in more),
        ("next", f"{command_line(found, shell=subject is not None)}"),
        ("", f"to {found.step.why}" if not found.step.why.startswith("to ") else found.step.why),
        ("claims", verdict_counts(certificates.claims)),
        *(("", f"{verdict_counts(claims):<40}{source}") for source, claims in certificates.by_source.items()),
        *(line for claim in certificates.failed for line in _failure_lines(claim)),
        *(("note", note) for note in certificates.notes),
    ]


def command_line(found: Answer, *, shell: bool = True) -> str:
    """The next step as it is typed."""
    return f"jkoflow {shlex.join(found.step.shell)}" if shell else found.step.python


def _failure_lines(claim: Claim) -> Iterator[tuple[str, str]]:
    block = "" if claim.block is None else f" (block {claim.block})"
    numbers = [
        f"{name} {value:.4g}"
        for name, value in (("measured", claim.measured), ("bound", claim.bound))
        if value is not None
    ]
    told = f"{', '.join(numbers)} {claim.unit}".strip()
    yield "fails", f"{claim.claim}{block}: {told}"
    yield "", f"remedy: {claim.remedy}"


def summary_html(certificates: Certificates) -> str:
    """The summary as HTML, the sentence in its colour, the claims folded away."""
    found = answer(certificates)
    (_, sentence), *rest = labelled_lines(certificates)
    shown = [(label, text) for label, text in rest if label or text]
    end = next((place for place, (label, _) in enumerate(shown) if label == "claims"), len(shown))
    colour = COLOURS[found.tone]
    return (
        f'<div><p style="border-left:4px solid {colour};padding-left:10px;margin:4px 0">'
        f'<b style="color:{colour}">{html.escape(sentence)}</b></p>{_table(shown[:end])}'
        f"<details><summary>{html.escape(verdict_counts(certificates.claims))}</summary>"
        f"{_table(shown[end + 1 :])}</details></div>"
    )


def _table(lines: list[tuple[str, str]]) -> str:
    rows = "".join(
        f'<tr><td style="text-align:left">{html.escape(label)}</td>'
        f'<td style="text-align:left">{html.escape(text)}</td></tr>'
        for label, text in lines
    )
    return f"<table>{rows}</table>"

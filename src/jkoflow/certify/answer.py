r"""What a certificate comes to, in one sentence, with a scale that a person can feel, and what to do next.

    TV <= min(sqrt(KL/2), sqrt(1 - e^{-KL})),     best accuracy = (1 + TV)/2

of the best of all classifiers between a real and a generated row, each as likely to be shown (Pinsker;
Bretagnolle & Huber 1979, Z. Wahrsch. verw. Geb. 47, 119). From the upper end of the KL follows that no
classifier is right more often than this; from the lower end nothing follows for classifiers. What that says
is the KL itself: in the geometric mean over real rows the model's density is at least e^KL times too small.
The thresholds are `GOOD_NATS` and `USABLE_NATS`; docs/theory.md, "The first line", defends them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from jkoflow.certify.claim import (
    INTEGRITY_READER,
    KL_READER,
    SAME_LAW_READER,
    Certificates,
    Claim,
    KLBracket,
    is_finite,
)
from jkoflow.certify.evidence import LEAST_ROWS
from jkoflow.certify.subject import Subject

__all__ = [
    "GOOD_NATS",
    "MARKS",
    "USABLE_NATS",
    "Answer",
    "NextStep",
    "Tone",
    "answer",
    "best_accuracy",
    "bracket_lines",
    "is_known",
    "level_of",
    "scale_of",
]

Tone = Literal["good", "usable", "bad", "unknown"]
"""The colour of the sentence: green, amber, red, grey."""

MARKS: dict[Tone, str] = {"good": "✓", "usable": "~", "bad": "✗", "unknown": "?"}
"""A sign for each tone, where there is no colour or it is not seen."""

GOOD_NATS = 0.08
"""Good up to this upper end: by Pinsker's inequality no classifier is right in more than 60 % of cases."""

USABLE_NATS = 0.5
"""Usable up to this upper end, at which 75 % is the most; not to be used from this lower end on."""

_MOST_HELD_OUT = 0.5
"""No larger share of a table is proposed to be held out."""

_SAMPLES = 1000
"""So many rows the next command draws."""

_STANDS_IN = "samples of the model can stand in for the data"


@dataclass(frozen=True)
class NextStep:
    """One thing to do next.

    Arguments:
        why: What it is for.
        shell: The command's arguments, the name of the program left out.
        python: The same on a fitted `JKOFlow` called `model`.
    """

    why: str
    shell: tuple[str, ...]
    python: str


@dataclass(frozen=True)
class Answer:
    """The first lines of a certificate.

    Arguments:
        tone: See `Tone`.
        sentence: Good, usable for what, or not to be used and why.
        step: What to do next.
    """

    tone: Tone
    sentence: str
    step: NextStep


def best_accuracy(nats: float) -> float:
    """No classifier between real and generated rows is right in a larger share of cases, at this KL."""
    nats = max(nats, 0.0)
    return (1 + min(math.sqrt(nats / 2), math.sqrt(-math.expm1(-nats)))) / 2


def is_known(kl: KLBracket) -> bool:
    """Whether the bracket says anything: a lower end above 0, or an upper one."""
    return is_finite(kl.upper) or (is_finite(kl.lower) and kl.lower > 0)


def answer(certificates: Certificates, subject: Subject | None = None) -> Answer:
    """The sentence, its tone and the next step.

    Arguments:
        certificates: What is known.
        subject: The model, for the command; placeholders if None.
    """
    subject = subject or Subject()
    kl = certificates.kl
    broken = [claim for claim in certificates.failed if claim.reader == INTEGRITY_READER]
    if broken:
        why = f"do not use, because this fails: {broken[0].claim}"
        return Answer("bad", why, _anew(subject))
    if not is_known(kl):
        return Answer("unknown", f"nothing is known of the model: {_missing(certificates)}", _rows(subject))
    lower = kl.lower if is_finite(kl.lower) else 0.0
    others = [claim for claim in certificates.failed if claim.reader == SAME_LAW_READER]
    if others and lower > 0:
        return Answer(
            "bad", f"do not use for these rows, because {_other_law(others[0])}", _own_rows(subject)
        )
    if lower > USABLE_NATS:
        why = f"{_times(lower)}: KL(data‖model) is at least {lower:.3g} nats, proven {level_of(kl)}"
        return Answer("bad", f"do not use as a stand-in for the data, because {why}", _refit(subject))
    if not (is_finite(kl.upper) and kl.upper <= USABLE_NATS):
        return Answer("unknown", f"not decided, because {_open(certificates, lower)}", _rows(subject))
    return _favourable(certificates, kl.upper, subject)


def bracket_lines(kl: KLBracket) -> list[str]:
    """The bracket, then its scale, then its assumption; a line each."""
    if kl.lower is None:
        return ["not known; the notes and the claims on it say why"]
    level = level_of(kl)
    if is_finite(kl.upper):
        told = f"between {kl.lower:.4f} and {kl.upper:.4f} nats {level}"
    elif kl.lower > 0:
        told = f"at least {kl.lower:.4f} nats {level}, without an upper bound"
    else:
        told = f"no lower bound above 0 nats could be proved {level}, and there is no upper bound"
    if is_finite(kl.estimate):
        told += f", estimate {kl.estimate:.4f}"
    scale = scale_of(kl)
    assumed = [f"assuming: {kl.assumption}"] if kl.assumption and is_finite(kl.upper) else []
    return [told, *([scale] * bool(scale)), *assumed]


def level_of(kl: KLBracket) -> str:
    """The confidence of its ends, in words."""
    return f"at {100 * kl.level:.0f} %"


def scale_of(kl: KLBracket) -> str:
    """What the ends mean for a person who looks at rows; "" where there is no end.

    What a large lower end means is in the sentence of `answer` already.
    """
    told = []
    share = _percent(100 * best_accuracy(kl.upper)) if is_finite(kl.upper) else "100"
    if share != "100":
        told.append(
            "the best classifier between real and generated rows is right in at most "
            f"{share} % of cases (50 % is chance)"
        )
    elif is_finite(kl.upper):
        if not (is_finite(kl.lower) and kl.lower > USABLE_NATS):
            told.append("with so high an upper end a classifier may tell real from generated rows every time")
    elif is_finite(kl.lower):
        told.append("without an upper end nothing bounds how often a classifier could be right")
    if is_finite(kl.lower) and 0 < kl.lower <= USABLE_NATS:
        told.append(_times(kl.lower))
    return "; ".join(told)


# ── the sentences ──


def _favourable(certificates: Certificates, upper: float, subject: Subject) -> Answer:
    """Good or usable: the upper end is low enough."""
    share = _percent(100 * best_accuracy(upper))
    failed = len(certificates.failed)
    although = f"; {failed} claim{'s fail' if failed > 1 else ' fails'}, below" if failed else ""
    draw = _draw(subject)
    if upper <= GOOD_NATS and not failed:
        return Answer("good", f"good: {_STANDS_IN}, under the assumption below", draw)
    sentence = (
        f"usable for drawing rows and for averages of log_prob, which are at most {upper:.2g} nats too low; "
        f"not shown to stand in for the data: a classifier may be right {share} times in 100{although}"
    )
    return Answer("usable", sentence, draw)


def _missing(certificates: Certificates) -> str:
    """Why there is no bracket, and what there was to make it of."""
    for claim in _about_kl(certificates):
        if claim.verdict == "undecided" and claim.assumption:
            return claim.assumption
    return "the KL could not be bracketed; the claims on it say why"


def _open(certificates: Certificates, lower: float) -> str:
    """Why a bracket that says something decides nothing."""
    upper = certificates.kl.upper
    if is_finite(upper):
        return (
            f"KL(data‖model) may be anything from {lower:.3g} to {upper:.3g} nats (good up to {GOOD_NATS:g}, "
            f"usable up to {USABLE_NATS:g}): do not rely on it before more held-out rows narrow that down"
        )
    reasons = [claim.assumption for claim in _about_kl(certificates) if claim.verdict == "undecided"]
    why = f": {reasons[0]}" if reasons else ""
    least = f"at least {lower:.3g} nats and " if lower > 0 else ""
    return f"KL(data‖model) is {least}without an upper end{why}"


def _about_kl(certificates: Certificates) -> list[Claim]:
    return [claim for claim in certificates.claims if claim.reader == KL_READER]


def _other_law(claim: Claim) -> str:
    return f"they are of another law than the rows of the fit: {claim.assumption}"


def _times(nats: float) -> str:
    """What a KL of at least so much says of the density of a real row."""
    power = math.floor(nats / math.log(10))
    times = f"{math.floor(100 * math.exp(nats)) / 100:g}" if power < 3 else f"10^{power}"
    return f"its density is at least {times} times too small at a real row (geometric mean)"


def _percent(share: float) -> str:
    """Rounded up, since it bounds from above."""
    return f"{math.ceil(share - 1e-9):.0f}"


# ── the next step ──


def _rows(subject: Subject) -> NextStep:
    why = (
        f"give rows that no part of the fit used, {LEAST_ROWS} at least: with thousands the bracket is narrow"
    )
    if subject.rows and LEAST_ROWS / subject.rows <= _MOST_HELD_OUT:
        share = math.ceil(100 * LEAST_ROWS / subject.rows) / 100
        why += f"; or fit with holdout_fraction = {share:g} or more of the {subject.rows:,} rows (--config)"
    arguments = ("certify", subject.path, "--data", "NEW_ROWS.csv", *_kept(subject))
    return NextStep(why, arguments, "model.certify(X_new)")


def _own_rows(subject: Subject) -> NextStep:
    if not subject.is_run:
        return _rows(subject)
    why = "judge the model by the rows that its fit set aside, and fit these rows by themselves"
    return NextStep(why, ("certify", subject.path, *_kept(subject)), "model.certify()")


def _draw(subject: Subject) -> NextStep:
    takes_context = "--context" in subject.options
    given = ("--context", "CONTEXT.csv") if takes_context else ()
    arguments = ("sample", subject.path, "-n", str(_SAMPLES), *given, "-o", "new_rows.csv")
    if takes_context:
        why = f"draw rows given the context in CONTEXT.csv, which has one row or {_SAMPLES:,}"
        return NextStep(why, arguments, f"model.sample({_SAMPLES}, context=C)")
    return NextStep("draw rows", arguments, f"model.sample({_SAMPLES})")


def _anew(subject: Subject) -> NextStep:
    why = "fit anew from another seed; where it fails again, report how to reproduce it"
    return NextStep(why, _fit(subject, subject.table, "--seed", "1"), "JKOFlow(random_state=1).fit(X)")


def _refit(subject: Subject) -> NextStep:
    if subject.has_defaults:
        why = "fit a larger table, if there is one: this fit ended by itself, and more time gains nothing"
        return NextStep(why, _fit(subject, "LARGER_TABLE.csv"), "JKOFlow().fit(X_more)")
    why = "fit again with the defaults, with which a fit ends by itself"
    return NextStep(why, _fit(subject, subject.table), "JKOFlow().fit(X)")


def _fit(subject: Subject, table: str, *options: str) -> tuple[str, ...]:
    return ("fit", table, "-o", f"{subject.path.rstrip('/')}_again", *subject.options, *options)


def _kept(subject: Subject) -> tuple[str, ...]:
    """A run keeps its certificates, which are there already."""
    return ("--overwrite",) if subject.is_run else ()

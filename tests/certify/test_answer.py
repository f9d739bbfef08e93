"""The first lines of a certificate: one sentence with a tone, an exact scale, a command that exists."""

from __future__ import annotations

import ast
import inspect
import math
import shlex
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from jkoflow import JKOFlow
from jkoflow.certify.answer import Answer, answer, best_accuracy, bracket_lines, scale_of
from jkoflow.certify.claim import (
    INTEGRITY_READER,
    KL_READER,
    SAME_LAW_READER,
    Certificates,
    Claim,
    KLBracket,
    undecided,
)
from jkoflow.certify.subject import Subject
from jkoflow.certify.told import command_line, summary_html, summary_lines
from jkoflow.cli.parser import build_parser

BROKEN = Claim(
    "samples and log_prob are of one law", "", "plug-in", "fails", 2.0, bound=0.2, reader=INTEGRITY_READER
)
NORMALITY = Claim("pushed rows are normal", "", "plug-in", "fails", 0.3, bound=0.2, reader="latent normality")
FEW = undecided("at least", "", "lower", why="15 held-out rows, of 100", remedy="give rows", reader=KL_READER)
TAILS = undecided("at most", "", "upper-under-assumption", why="heavier tails", remedy="x", reader=KL_READER)
OTHER = Claim(
    "the rows are as likely",
    "",
    "plug-in",
    "fails",
    7.0,
    bound=0.1,
    assumption="9 nats, and 2",
    reader=SAME_LAW_READER,
)


def found(*claims: Claim, **ends: Any) -> Certificates:
    return Certificates(KLBracket(**ends), claims)


@pytest.mark.parametrize(
    ("certificates", "tone", "words"),
    [
        (found(lower=0.0, upper=0.05), "good", "good: samples of the model can stand in"),
        (found(lower=0.0, upper=0.08), "good", "under the assumption below"),
        (found(NORMALITY, lower=0.0, upper=0.05), "usable", "1 claim fails"),
        (found(lower=0.02, upper=0.4), "usable", "usable for drawing rows"),
        (found(lower=0.4, upper=0.9), "unknown", "anything from 0.4 to 0.9 nats"),
        (found(TAILS, lower=0.1, upper=math.inf), "unknown", "without an upper end: heavier tails"),
        (found(lower=0.6, upper=0.9), "bad", "do not use as a stand-in for the data, because its density"),
        (found(BROKEN, lower=0.0, upper=0.01), "bad", "do not use, because this fails: samples and log_prob"),
        (found(OTHER, lower=3.0, upper=4.0), "bad", "of another law than the rows of the fit: 9 nats, and 2"),
        (found(OTHER, lower=0.0, upper=0.05), "usable", "1 claim fails"),
        (found(FEW), "unknown", "nothing is known of the model: 15 held-out rows, of 100"),
        (found(lower=0.0, upper=math.inf), "unknown", "nothing is known"),
    ],
)
def test_one_sentence_says_what_the_model_is_good_for(
    certificates: Certificates, tone: str, words: str
) -> None:
    told = answer(certificates)
    assert told.tone == tone
    assert words in told.sentence
    assert "\n" not in told.sentence
    lines = summary_lines(certificates)
    assert words in lines[0]
    assert str(certificates).splitlines() == lines


# ── the scale ──


@pytest.mark.parametrize("shift", [0.05, 0.3, 1.0, 2.0, 4.0])
def test_no_classifier_is_right_more_often_than_the_scale_says(shift: float) -> None:
    """Real N(0, 1) and generated N(shift, 1): the best classifier cuts halfway, and KL = shift²/2."""
    best = norm.cdf(shift / 2)
    assert best <= best_accuracy(shift**2 / 2) <= 1
    assert best_accuracy(shift**2 / 2) < best + 0.15


def test_the_scale_starts_at_chance_and_never_exceeds_certainty() -> None:
    assert best_accuracy(0.0) == best_accuracy(-1e-9) == 0.5
    assert best_accuracy(1e9) == 1.0
    accuracies = [best_accuracy(nats) for nats in np.linspace(0, 10, 50)]
    assert accuracies == sorted(accuracies)


def test_a_lower_end_says_nothing_of_classifiers() -> None:
    """KL may be large where hardly a row differs: it says how far densities are off."""
    told = scale_of(KLBracket(lower=math.log(1.5), upper=math.inf))
    assert "nothing bounds how often a classifier" in told
    assert "at least 1.5 times too small" in told
    assert "classifier" in scale_of(KLBracket(lower=0.0, upper=0.1))
    assert scale_of(KLBracket()) == ""
    assert scale_of(KLBracket(lower=0.0, upper=14.0)).startswith("with so high an upper end a classifier may")
    assert scale_of(KLBracket(lower=3.0, upper=14.0)) == ""
    for nats, times in ((0.7, "2.01"), (math.log(999.998), "999.99"), (19.8, "10^8"), (57.0, "10^24")):
        told = answer(found(lower=nats, upper=math.inf)).sentence
        assert f"at least {times} times too small" in told
        assert float(times.replace("10^", "1e")) <= math.exp(nats)
    assert not [
        line for line in bracket_lines(KLBracket(1.0, 1.0, math.inf, assumption="x")) if "assum" in line
    ]
    assert "right in at most 61 % of cases" in bracket_lines(KLBracket(0.0, 0.01, 0.09))[1]


# ── the next step ──

SUBJECTS = (
    Subject(),
    Subject("my runs/a", table="a table.csv", rows=300),
    Subject("model", is_run=False),
    Subject(has_defaults=False, options=("--weights", "w")),
    Subject(options=("--context", "age,dose")),
)
CASES = (
    found(lower=0.0, upper=0.05),
    found(lower=0.02, upper=0.4),
    found(lower=0.4, upper=0.9),
    found(lower=0.6, upper=0.9),
    found(BROKEN, lower=0.0, upper=0.01),
    found(OTHER, lower=3.0, upper=4.0),
    found(FEW),
)


def answers() -> list[tuple[Answer, Subject]]:
    return [(answer(case, subject), subject) for case in CASES for subject in SUBJECTS]


def test_every_next_command_is_one_that_the_command_line_takes() -> None:
    for told, _ in answers():
        parsed = shlex.split(command_line(told))
        assert parsed[0] == "jkoflow"
        build_parser().parse_args(parsed[1:])


def test_every_next_call_is_one_that_the_estimator_has() -> None:
    for told, _ in answers():
        expression = ast.parse(told.step.python, mode="eval").body
        assert isinstance(expression, ast.Call)
        for call in (node for node in ast.walk(expression) if isinstance(node, ast.Call)):
            named = {word.arg: None for word in call.keywords if word.arg}
            if isinstance(call.func, ast.Name):
                assert call.func.id == "JKOFlow"
                inspect.signature(JKOFlow).bind(**named)
            else:
                assert isinstance(call.func, ast.Attribute)
                method = getattr(JKOFlow, call.func.attr)
                inspect.signature(method).bind(None, *call.args, **named)


def test_the_next_command_is_about_the_model_that_was_judged() -> None:
    def command(case: Certificates, subject: Subject) -> str:
        return command_line(answer(case, subject))

    run = Subject("my runs/a", table="a table.csv", rows=300)
    assert command(CASES[0], run) == "jkoflow sample 'my runs/a' -n 1000 -o new_rows.csv"
    assert command(CASES[5], run) == "jkoflow certify 'my runs/a' --overwrite"
    assert "holdout_fraction = 0.34" in answer(CASES[6], run).step.why
    assert "holdout_fraction" not in answer(CASES[6], replace(run, rows=150)).step.why
    assert command(CASES[3], run) == "jkoflow fit LARGER_TABLE.csv -o 'my runs/a_again'"
    limited = replace(run, has_defaults=False)
    assert command(CASES[3], limited) == "jkoflow fit 'a table.csv' -o 'my runs/a_again'"
    assert command(CASES[4], run).endswith("--seed 1")
    assert "--context CONTEXT.csv" in command(CASES[0], Subject(options=("--context", "age")))


def test_a_notebook_shows_the_sentence_in_its_colour_and_no_markup_of_the_rows() -> None:
    claim = replace(BROKEN, claim="<b>bold</b>")
    html = summary_html(found(claim, lower=0.0, upper=0.1))
    assert html.index("do not use") < html.index("KL(data‖model)") < html.index("<details>")
    assert "<b>bold" not in html
    assert found(lower=0.1)._repr_html_().startswith("<div>")

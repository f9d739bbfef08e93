"""What a certificate tells to change can be changed: the options that it names exist."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import jkoflow.certify
from jkoflow import JKOFlow
from jkoflow.cli.parser import build_parser

FILES = sorted(Path(jkoflow.certify.__file__).parent.glob("*.py"))
VERBS = {"fit", "sample", "score", "certify", "report", "demo", "schema"}
IMPOSSIBLE = ("fit longer", "fit the block", "longer", "solver steps", "end the flow", "check fewer")
"""Nobody has an option for these: a fit ends by itself, and solver steps are chosen by the block."""


def texts(file: Path) -> Iterator[str]:
    """Every text of a module that is no docstring, the fixed parts of f-strings included."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
            yield node.value


def flags(verb: str) -> set[str]:
    """The options of a verb of the shell."""
    (verbs,) = (action for action in build_parser()._actions if hasattr(action, "choices") and action.choices)
    assert isinstance(verbs.choices, dict)
    return {flag for action in verbs.choices[verb]._actions for flag in action.option_strings}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_remedies_name_what_exists(file: Path) -> None:
    options = set(inspect.signature(JKOFlow).parameters)
    known = set().union(*(flags(verb) for verb in VERBS - {"schema"}))
    for text in texts(file):
        assert not [phrase for phrase in IMPOSSIBLE if phrase in text and len(text) < 300], text
        assert set(re.findall(r"--[a-z][a-z-]+", text)) <= known, text
        assert set(re.findall(r"\b([a-z]+(?:_[a-z]+)*) (?:=|<=|>=) [\d'\"]", text)) <= options, text


def test_what_the_test_looks_for_is_found() -> None:
    assert "--data" in flags("certify")
    assert "--allow-undecided" in flags("certify")
    assert re.findall(r"\b([a-z]+(?:_[a-z]+)*) (?:=|<=|>=) [\d'\"]", "fit with solver_steps = 3") == [
        "solver_steps"
    ]

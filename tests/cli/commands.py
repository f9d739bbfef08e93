"""What the tests of the command line share: a small table, a quick fit, and how a refusal looks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jkoflow.cli import main

ROWS = 60
CONFIG = "max_blocks = 3\n"
SECONDS = 240


def make_table(folder: Path, name: str = "table.csv") -> Path:
    """60 rows of x, y, z: y follows x, z is free."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=ROWS)
    frame = pd.DataFrame({"x": x, "y": 2 * x + 0.1 * rng.normal(size=ROWS), "z": rng.normal(size=ROWS)})
    frame.to_csv(folder / name, index=False)
    return folder / name


def make_config(folder: Path) -> Path:
    """Settings of a fit that takes two seconds."""
    path = folder / "settings.toml"
    path.write_text(CONFIG)
    return path


def fit_arguments(folder: Path, *more: str) -> list[str]:
    """The quick fit of the table in `folder`, made there where missing, to folder/run."""
    table = folder / "table.csv" if (folder / "table.csv").exists() else make_table(folder)
    return ["fit", str(table), "-o", str(folder / "run"), "--config", str(make_config(folder)), *more]


def check_refused(capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, *words: str) -> str:
    """Run `jkoflow`: it has to end with `status` and one line that holds `words`; return the line."""
    capsys.readouterr()
    assert main(arguments) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("jkoflow: ")
    assert [word for word in words if word not in line] == []
    return line


INTERRUPTED = """
import os, signal, sys
from jkoflow.cli import main
from jkoflow.cli.progress import Progress

number, after = int(sys.argv[1]), int(sys.argv[2])
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
tell = Progress.__call__

def tell_and_interrupt(progress, record):
    tell(progress, record)
    if progress.steps == after:
        os.kill(os.getpid(), number)

Progress.__call__ = tell_and_interrupt
sys.exit(main(sys.argv[3:]))
"""
"""`jkoflow` that sends itself a signal after so many steps: no other process has to be quick enough."""


def start(arguments: list[str], program: Sequence[str] = ("-m", "jkoflow")) -> subprocess.Popen[str]:
    """`python -m jkoflow`, or another `program`, as a process of its own."""
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below the folder but locks."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if path.name != ".lock"}

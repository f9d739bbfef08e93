"""`jkoflow demo`: the whole path on a real data set, 1,797 handwritten digits of 8 x 8 pixels.

    y = x + u - 1/2,  x in {0, ..., 16}^64,  u ~ U[0, 1)^64      grey levels are counts, a density needs reals

The table that is learned is kept in the run folder as digits.csv, so that the run can be reported on, or
fitted again with other settings. Source: Theis, van den Oord & Bethge (2016), arXiv 1511.01844, section 3.1;
the digits are those of Alpaydin & Kaynak (1998), as scikit-learn ships them.
"""

from __future__ import annotations

import argparse
import math
import shlex
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from sklearn.datasets import load_digits

from jkoflow.certify.subject import subject_of
from jkoflow.cli import fit
from jkoflow.cli.certify import certify_run, first_lines
from jkoflow.cli.progress import Progress
from jkoflow.cli.report import write_report
from jkoflow.cli.sample import missed_line
from jkoflow.cli.summary import summary_lines
from jkoflow.cli.terminal import say, tell
from jkoflow.config import Settings
from jkoflow.data import Table, read_table, write_table
from jkoflow.errors import RunFolderError
from jkoflow.fitting import Fitted, fit_table
from jkoflow.runs import RunFolder
from jkoflow.runtime import seed_stream
from jkoflow.storage import read_json, shown, write_bytes_atomic

__all__ = ["run"]

TABLE_NAME, SAMPLES_NAME, REPORT_NAME = "digits.csv", "samples.csv", "report.html"


def run(options: argparse.Namespace, *, seed: int = 0, samples: int = 1000) -> None:
    """Fit the digits, draw samples, certify the model by the rows that the fit set aside, write the page.

    Arguments:
        options: The folder of the run, `output`.
        seed: Seed of the noise on the grey levels, of the fit and of the samples.
        samples: How many new digits are drawn.
    """
    path, progress = Path(options.output), Progress()
    content = digits_csv(seed)
    table = digits_table(content, path / TABLE_NAME)
    try:
        with RunFolder.open(path, "overwrite") as folder:
            _require_own(folder.path, table)
            progress.header = [f"scikit-learn's digits: {len(table):,} rows, {table.dim} columns"]
            settings = Settings.from_mapping({**fit.shell_defaults(), "seed": seed})
            fitted = fit_table(table, settings=settings, run=folder, progress=progress)
            write_bytes_atomic(path / TABLE_NAME, content)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; start again with jkoflow demo -o {shlex.quote(options.output)}"
        ) from None
    for line in summary_lines(fitted.results, path):
        say(line)
    _write_samples(fitted, path / SAMPLES_NAME, samples)
    with RunFolder.open(path, "read") as folder:
        certificates = certify_run(folder, fitted.model)
        for line in first_lines(certificates, subject_of(fitted.model, options.output, folder)):
            say(line)
        write_report(folder, path / REPORT_NAME, overwrite=True)


def digits_csv(seed: int) -> bytes:
    """The table as it is kept: the same bytes every time."""
    levels = load_digits().data
    noise = torch.rand(levels.shape, generator=seed_stream(seed, "demo"), dtype=torch.float64).numpy()
    side = math.isqrt(levels.shape[1])
    names = [f"pixel_{row}_{column}" for row in range(side) for column in range(side)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, TABLE_NAME)
        write_table(file, levels + noise - 0.5, names)
        return file.read_bytes()


def digits_table(content: bytes, path: Path) -> Table:
    """The table as it will be read from `path`, which need not be there yet."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, TABLE_NAME)
        file.write_bytes(content)
        return replace(read_table(file), source=str(path))


def _require_own(folder: Path, table: Table) -> None:
    """Refuse to replace a run that is not the demo's, which is one of digits.csv in its own folder."""
    if not (folder / "run.json").exists():
        return
    found = read_json(folder / "run.json", remedy="choose another folder with -o").get("table")
    name = found.get("path") if isinstance(found, dict) else None
    if Path(name if isinstance(name, str) else "").parts[-2:] != Path(table.source or "").parts[-2:]:
        raise RunFolderError(
            f"{shown(folder)}: holds a run that is not the demo's; choose another folder with -o"
        )


def _write_samples(fitted: Fitted, path: Path, count: int) -> None:
    rows, errors = fitted.model.sample(count, seed=fitted.model.settings.seed)
    write_table(path, rows, fitted.model.schema.names, overwrite=True)
    if line := missed_line(errors, fitted.model.settings.dtype):
        tell(line)
    say(f"{'samples':<16}{shown(path)}")

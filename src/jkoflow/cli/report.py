"""`jkoflow report`: one HTML page about a finished run; it reads run and table and changes neither."""

from __future__ import annotations

import argparse
from pathlib import Path

from jkoflow.cli.terminal import say, tell
from jkoflow.report import render_report
from jkoflow.report.gather import gather_report
from jkoflow.runs import RunFolder
from jkoflow.storage import shown, validate_new_output, write_bytes_atomic

__all__ = ["run", "write_report"]


def run(options: argparse.Namespace) -> None:
    """Write the page."""
    with RunFolder.open(options.run, "read") as folder:
        folder.require_finished()
        output = folder.path / "report.html" if options.output is None else Path(options.output)
        write_report(folder, output, overwrite=options.overwrite)


def write_report(folder: RunFolder, output: Path, *, overwrite: bool) -> None:
    """Write the page about an open, finished run."""
    validate_new_output(output, overwrite=overwrite)
    data, missing = gather_report(folder)
    write_bytes_atomic(output, render_report(data).encode(), overwrite=overwrite)
    if missing:
        tell(f"note: {missing}")
    say(f"{'report':<16}{shown(output)}")

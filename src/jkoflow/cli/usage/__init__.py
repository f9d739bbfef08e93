"""Description, examples and options of each verb, one file each; nothing here is slow to import."""

from __future__ import annotations

from jkoflow.cli.usage import demo, fit, report, sample, score

__all__ = ["demo", "fit", "report", "sample", "score"]

"""Description, examples and options of each verb, one file each; nothing here is slow to import."""

from __future__ import annotations

from jkoflow.cli.usage import certify, demo, fit, report, sample, score

__all__ = ["certify", "demo", "fit", "report", "sample", "score"]

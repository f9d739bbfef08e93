"""One self-contained HTML page about a finished run: a reader of what the fit left, never a part of it."""

from __future__ import annotations

from jkoflow.report.contents import HeldOut, ReportData
from jkoflow.report.page import render_report

__all__ = ["HeldOut", "ReportData", "render_report"]

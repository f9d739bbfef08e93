"""The run folder: atomic, locked, resumable, pickle-free.

    RUN/{run.json, environment.json, steps.jsonl, checkpoints/, model/}

Source: ours; `jkoflow fit --help` lists the files of a run.
"""

from __future__ import annotations

from jkoflow.runs.environment import environment, environment_changes
from jkoflow.runs.folder import RunFolder, Status
from jkoflow.runs.opening import Mode

__all__ = ["Mode", "RunFolder", "Status", "environment", "environment_changes"]

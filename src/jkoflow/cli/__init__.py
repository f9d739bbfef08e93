"""The command line, one file for each verb: fit, sample, score, certify, report, demo.

    jkoflow VERB ...  ->  exit status: 0 done, 1 a claim fails, 2 usage or input, 3 numerical, 4 run folder,
                          130, 143, 129 interrupted by Ctrl-C, SIGTERM, SIGHUP

Source: ours; `jkoflow --help`.
"""

from __future__ import annotations

from jkoflow.cli.command import main

__all__ = ["main"]

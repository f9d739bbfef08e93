"""The contenders by name: the package each needs, whether it looks at the budget, and what its scoring costs.

`contenders/NAME.py` has `fit(train, *, budget, seed) -> Density` and `SETTINGS_TRIED`, the number of
settings that were looked at before its own was chosen, on validation rows of training tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CONTENDERS", "STANDARD", "Entry", "is_ours"]


@dataclass(frozen=True)
class Entry:
    """What the race has to know before it starts a contender.

    Arguments:
        package: What has to be importable, beside the library's own dependencies; None for nothing.
        budgeted: Whether its fit depends on the budget; one that does not runs once for all of them.
        fit_seconds: CPU-seconds of a fit without a budget, a generous guess for the estimate of the time.
        score_seconds: The same of all that is measured after a fit.
        module: The file here that fits it, where that is not its own name.
        options: What that file's `fit` is given beside rows, budget and seed.
    """

    package: str | None = None
    budgeted: bool = True
    fit_seconds: float = 0.0
    score_seconds: float = 10.0
    module: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


CONTENDERS: Mapping[str, Entry] = {
    "ours": Entry(),
    "ours_blocks": Entry(module="ours", options={"closing": None}),
    "ours_jko": Entry(module="ours", options={"objective": "jko"}),
    "ours_zuko": Entry("zuko", module="ours", options={"objective": "jko", "block": "zuko"}),
    "ours_log_cosh": Entry(module="ours", options={"objective": "jko", "law": "log_cosh"}),
    "ours_flow_matching": Entry(module="ours", options={"objective": "flow_matching"}),
    "nsf": Entry("zuko"),
    "maf": Entry("zuko"),
    "naf": Entry("zuko", score_seconds=60.0),
    "maf_best": Entry("zuko"),
    "nsf_best": Entry("zuko"),
    "flow_matching": Entry("torchcfm", score_seconds=60.0),
    "flow_matching_ot": Entry("torchcfm", score_seconds=60.0),
    "ffjord": Entry("zuko", score_seconds=60.0),
    "published_jko": Entry(score_seconds=60.0),
    "gmm_validated": Entry(),
    "gmm30": Entry(budgeted=False, fit_seconds=60.0),
    "forest": Entry(score_seconds=60.0),
    "vine": Entry("pyvinecopulib", budgeted=False, fit_seconds=60.0),
    "kde": Entry(budgeted=False, fit_seconds=60.0),
}

STANDARD = ("ours", "nsf", "flow_matching", "ffjord", "published_jko", "gmm30")


def is_ours(contender: str) -> bool:
    """Whether it is this library, with whatever options."""
    return (CONTENDERS[contender].module or contender) == "ours" if contender in CONTENDERS else False

"""What a fit comes to: held-out NLL beside a Gaussian's, the round trip, the notes, and where things are.

NLL = -(1/n) sum_i log q_0(x_i)          held-out rows x_i, nats, data units
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jkoflow.cli.progress import format_seconds
from jkoflow.storage import shown

__all__ = ["summary_lines"]


def summary_lines(results: Mapping[str, Any], run: Path) -> list[str]:
    """The lines of the summary.

    Arguments:
        results: What `fit_table` found; see `run.json`.
        run: The run folder.
    """
    gain, error = results["gaussian_minus_ours_nats"], results["gaussian_minus_ours_se_nats"]
    round_trip = results["round_trip_error"]
    rows = [
        (
            _NAMES[results["held_out_on"]],
            f"{_measured(results, 'held_out_nll')} nats per row, in the units of the table",
        ),
        ("", f"on {results['held_out_rows']:,} rows {_ROLES[results['held_out_on']]}"),
        ("Gaussian's NLL", f"{_measured(results, 'gaussian_nll')}, shrinkage covariance, same rows"),
        ("", f"the flow is {'better' if gain >= 0 else 'worse'} by {abs(gain):.4f} ± {error:.4f} nats"),
        (
            "round trip",
            f"median {round_trip['median']:.1e}, largest {round_trip['largest']:.1e} of 256 samples, "
            "standardised units",
        ),
        (
            "trained",
            f"{results['blocks']} blocks in {format_seconds(results['cpu_seconds'])} of processor time",
        ),
        ("", results["ended"]),
        ("model", shown(run / "model")),
        *(("note", note) for note in results["notes"]),
    ]
    return [f"{name:<16}{text}" for name, text in rows]


_NAMES = {"holdout": "held-out NLL", "validation": "validation NLL"}
_ROLES = {
    "holdout": "that no part of the fit looked at",
    "validation": "that also told when to stop, so it flatters the flow",
}


def _measured(results: Mapping[str, Any], name: str) -> str:
    return f"{results[f'{name}_nats']:.4f} ± {results[f'{name}_se_nats']:.4f}"

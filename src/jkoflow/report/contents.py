"""What a report is about: plain numbers and rows, so that it can be rendered without a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jkoflow.certify.claim import Certificates
from jkoflow.certify.subject import Subject
from jkoflow.errors import InputError

__all__ = ["HeldOut", "ReportData"]


@dataclass(frozen=True)
class HeldOut:
    """Negative log-likelihood of rows that no gradient saw, beside that of a Gaussian fitted as the flow was.

    Attributes:
        nll: Mean of -log q_0(x) over the rows, in `unit`.
        se: Its standard error.
        gaussian_nll: The same of a Gaussian with shrinkage covariance; None where none was fitted.
        gaussian_se: Its standard error.
        difference_se: Standard error of the paired difference; None takes the two errors as independent.
        rows: How many rows.
        unit: What the numbers are measured in.
        steered: Whether the rows also stopped the training (a validation split), so that `nll` flatters.
    """

    nll: float
    se: float
    gaussian_nll: float | None = None
    gaussian_se: float | None = None
    difference_se: float | None = None
    rows: int = 0
    unit: str = "nats per row, data units"
    steered: bool = False

    @property
    def gain(self) -> float | None:
        """Nats by which the flow is better than the Gaussian."""
        return None if self.gaussian_nll is None else self.gaussian_nll - self.nll

    @property
    def gain_se(self) -> float:
        """Standard error of `gain`."""
        return (
            math.hypot(self.se, self.gaussian_se or 0.0) if self.difference_se is None else self.difference_se
        )


@dataclass(frozen=True)
class ReportData:
    """Everything on the page.

    Attributes:
        title: Heading, most often the table's name.
        n_rows: Rows of the whole table.
        columns: Names of its d columns.
        real: Rows of the table, shape `(m, d)`, data units; a sample of them is drawn.
        generated: Rows of the model, shape `(k, d)`, data units.
        latent: Held-out rows pushed to the noise, shape `(l, d)`; None leaves the section out.
        held_out: Held-out likelihoods; None leaves them out.
        steps: Records of `steps.jsonl` in order, both kinds (`step` and `decision`).
        image_shape: `(height, width)` where a row is a picture, else None.
        settings: What the fit was asked for, in the order to show.
        notes: What a reader should know about the data, one line each.
        environment: Versions and platform.
        certificates: What is known of the model; None where it was not certified.
        uncertified: Then, in a line, why, and how to get it; "" leaves the section out.
        subject: The run, as the next command names it.

    Raises:
        InputError: Shapes that do not fit together.
    """

    title: str
    n_rows: int
    columns: tuple[str, ...]
    real: NDArray[np.float64]
    generated: NDArray[np.float64]
    latent: NDArray[np.float64] | None = None
    held_out: HeldOut | None = None
    steps: tuple[Mapping[str, Any], ...] = ()
    image_shape: tuple[int, int] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    certificates: Certificates | None = None
    uncertified: str = ""
    subject: Subject = field(default_factory=Subject)

    def __post_init__(self) -> None:
        dim = len(self.columns)
        for name in ("real", "generated", "latent"):
            rows = getattr(self, name)
            if rows is not None and (rows.ndim != 2 or rows.shape[1] != dim):
                raise InputError(
                    f"report: {name}: expected shape (rows, {dim}) as there are {dim} columns, "
                    f"got {rows.shape}; give it in the table's own columns"
                )
        if self.image_shape is not None and math.prod(self.image_shape) != dim:
            height, width = self.image_shape
            raise InputError(
                f"report: image_shape: expected height × width = {dim} columns, got {height} × {width}; "
                "give the shape of one picture or leave it out"
            )

    @property
    def blocks(self) -> list[Mapping[str, Any]]:
        """The records of trained blocks, in order; `kept` are those of the finished flow."""
        records = [record for record in self.steps if record.get("kind", "step") == "step"]
        kept = _in_flow(records)
        return [{**record, "kept": index in kept} for index, record in enumerate(records)]

    @property
    def decisions(self) -> list[Mapping[str, Any]]:
        """The records of decisions, in order."""
        return [record for record in self.steps if record.get("kind") == "decision"]


def _in_flow(records: Sequence[Mapping[str, Any]]) -> set[int]:
    """Which records' blocks the finished flow is made of: a fit may start again from its first blocks."""
    flow: list[int] = []
    for index, record in enumerate(records):
        kept = bool(record.get("kept", True))
        length = record.get("flow_blocks", len(flow) + kept)
        flow = [*flow[: length - kept], *([index] if kept else [])]
    return set(flow)
